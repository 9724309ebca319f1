package persist

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// Bounds of a gateway's row.
const (
	silentMax     = time.Minute // a gateway that has not renewed its row for so long does not count any more
	fleetErrorMax = 4 << 10     // bytes of a refusal that other gateways see
)

// Fleet is what gateways on one database know of each other: a row each, and the newest request to reload.
type Fleet struct {
	store  *Store
	id     meter.ID
	name   string
	joined bool // what this process finds when it begins is cleared
}

// NewFleet is store's fleet as the gateway called name sees it.
func NewFleet(store *Store, name string) *Fleet {
	return &Fleet{store: store, id: meter.NewID(time.Now()), name: name}
}

// GatewayState is how a gateway stands.
type GatewayState struct {
	Name     string
	Reload   int64             // the newest request to reload that it has followed
	Policies map[string]string // version by product
	Error    string            // why its last reload was refused; empty: it was not
	SeenAt   time.Time
}

// Renew writes this gateway's row, and returns the newest request to reload and how long ago it was made. It is called
// once at a time.
func (f *Fleet) Renew(ctx context.Context, s GatewayState) (newest int64, age time.Duration, err error) {
	if err := f.join(ctx); err != nil {
		return 0, 0, err
	}
	why := s.Error[:min(len(s.Error), fleetErrorMax)]
	why = strings.ReplaceAll(strings.ToValidUTF8(why, ""), "\x00", "")
	err = f.store.pool.QueryRow(ctx, `WITH renewed AS (
			INSERT INTO creditgate.gateway (id, name, reload, policies, error) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (id) DO UPDATE SET seen_at = now(), reload = excluded.reload, policies = excluded.policies,
				error = excluded.error)
		SELECT number, now() - requested_at FROM creditgate.policy_reload`,
		[16]byte(f.id), f.name, s.Reload, s.Policies, why).Scan(&newest, &age)
	return newest, age, storeError("renew the gateway's row", err)
}

// join deletes the rows of gateways that ended without a word, and of the one before this on the same address, which two
// cannot listen on. Should another host have this one's name, its gateway makes its row anew within a second. It is not
// done at each renewal: gateways that come back at once would delete each other's rows, each waiting for the other.
func (f *Fleet) join(ctx context.Context) error {
	if f.joined {
		return nil
	}
	_, err := f.store.pool.Exec(ctx, `DELETE FROM creditgate.gateway WHERE id IN (SELECT id FROM creditgate.gateway
		WHERE id <> $1 AND (name = $2 OR seen_at < now() - $3::interval) FOR UPDATE SKIP LOCKED)`,
		[16]byte(f.id), f.name, silentMax)
	f.joined = err == nil
	return storeError("forget gateways that are gone", err)
}

// Leave deletes this gateway's row, so that no reload waits for it.
func (f *Fleet) Leave(ctx context.Context) error {
	_, err := f.store.pool.Exec(ctx, `DELETE FROM creditgate.gateway WHERE id = $1`, [16]byte(f.id))
	return storeError("delete the gateway's row", err)
}

// RequestReload asks every gateway to reload its policies, and numbers the request.
func (f *Fleet) RequestReload(ctx context.Context) (number int64, err error) {
	err = f.store.pool.QueryRow(ctx, `UPDATE creditgate.policy_reload SET number = number + 1, requested_at = clock_timestamp()
		RETURNING number`).Scan(&number)
	return number, storeError("ask all gateways to reload", err)
}

// Gateways are those that renewed their rows within the last minute, by name. One that was killed counts until then. One
// that does not reach Postgres counts no more then, and follows once it does.
func (f *Fleet) Gateways(ctx context.Context) ([]GatewayState, error) {
	rows, err := f.store.pool.Query(ctx, `SELECT name, reload, policies, error, seen_at FROM creditgate.gateway
		WHERE seen_at >= now() - $1::interval ORDER BY name, id`, silentMax)
	if err != nil {
		return nil, storeError("list gateways", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[GatewayState])
	return all, storeError("list gateways", err)
}
