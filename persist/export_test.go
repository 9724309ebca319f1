package persist

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The queries whose plans are looked at.
const (
	FirstEntry          = firstEntry
	UsageSums           = usageSums
	PendingChanges      = pendingChanges
	DueLapses           = dueLapses
	IdentitiesByKey     = identitiesByKey
	IdentitiesByAccount = identitiesByAccount
	LiveGrants          = liveGrants
	LoadedAccounts      = loadedAccounts
	BucketPlaces        = bucketPlaces
)

// Bounds of lookups.
const (
	LookupFlights  = lookupFlights
	LookupsWaiting = lookupsWaiting
)

// Unavailable is unavailable.
var Unavailable = unavailable

// Lookups is lookups, for tests that answer the queries themselves.
type Lookups[K comparable, V any] struct{ *lookups[K, V] }

func NewLookups[K comparable, V any](most int, find func(context.Context, []K) (map[K]V, error)) *Lookups[K, V] {
	return &Lookups[K, V]{newLookups(most, lookupTimeout, find)}
}

func (l *Lookups[K, V]) Ask(ctx context.Context, key K) (V, bool, error) { return l.ask(ctx, key) }

// Waiting is how many questions are queued.
func (l *Lookups[K, V]) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// Asking is how many wait for a key that is queued.
func (l *Lookups[K, V]) Asking(key K) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.queued[key]; q != nil {
		return q.asking
	}
	return 0
}

// OpenLookups opens the connections for lookups by themselves.
func OpenLookups(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	return openLookups(ctx, config)
}

// WithoutRoles is what runs of a migration.
func WithoutRoles(sql string) string { return withoutRoles(sql) }

// LockClass is lockClass.
const LockClass = lockClass
