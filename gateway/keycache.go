package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Bounds of the key cache.
const (
	cacheShards = 64
	// knownMax and unknownMax bound the entries of all shards together. An entry takes 360 bytes, 456 with a
	// subscription: 60 MB at most, for the keys that 13,000 requests a second can bring in the longest TTL. Unknown keys
	// live apart, so that a caller who guesses keys cannot push out those in use.
	knownMax   = 1 << 17
	unknownMax = 1 << 13
	// unknownTTL is short: a key made a moment ago must work.
	unknownTTL = time.Second
	// refreshQueue bounds the look-ups made ahead of expiry, and refreshGather is how long they gather. Nobody waits for
	// them, and storage answers those who ask at one moment together, which costs it little more than one of them.
	// refreshMost leaves storage room for what a request waits for: it answers as many at once, twice at a time.
	refreshQueue  = 1024
	refreshMost   = 512
	refreshGather = 50 * time.Millisecond
	// lookupTimeout bounds one look-up.
	lookupTimeout = 2 * time.Second
	// awayTimeout bounds a look-up that a request waits for while storage seems away and a cached entry can do instead.
	awayTimeout = 100 * time.Millisecond
	// outagePause is how long storage seems away after a failed look-up, unless another succeeds.
	outagePause = 3 * time.Second
	// accountMarks is how many marks accounts share: an entry may be looked up once too often because of another
	// account's change, never too seldom.
	accountMarks = 4096
	// strangersMax bounds the look-ups of keys not in the cache, all together: a caller who guesses keys must not fill
	// storage's queue before those in use. It is about what storage answers together.
	strangersMax = 512
)

// cacheKey is the hash of an API key, or of an account name in a trusted header.
type cacheKey struct {
	hash    [32]byte
	account string
}

type lookup func(context.Context, cacheKey) (Identity, error)

// keyCache remembers who a key belongs to. An entry in use is looked up again in the background at half its
// life, so that a priced request does not wait for Postgres. Past its TTL an entry serves only if its own look-up
// failed just now, because Postgres is away: that another one's failed says nothing about this key.
type keyCache struct {
	ttl       time.Duration
	shards    [cacheShards]cacheShard
	queue     chan refresh
	strangers chan struct{}              // a token per look-up of a key that is not in the cache
	outage    atomic.Int64               // Unix nanoseconds until which storage seems away
	changed   [accountMarks]atomic.Int64 // Unix nanoseconds; what was asked before is not believed
	metrics   *metrics
}

type cacheShard struct {
	mu      sync.RWMutex
	known   map[cacheKey]*cached
	unknown map[cacheKey]time.Time // until when
	flight  singleflight.Group
}

type cached struct {
	who     Identity
	at      time.Time
	mark    *atomic.Int64 // of its account
	pending atomic.Bool   // a refresh is queued
}

type refresh struct {
	key  cacheKey
	find lookup
}

func newKeyCache(ttl time.Duration, m *metrics) *keyCache {
	c := &keyCache{
		ttl: ttl, queue: make(chan refresh, refreshQueue), strangers: make(chan struct{}, strangersMax), metrics: m,
	}
	for i := range c.shards {
		c.shards[i].known = make(map[cacheKey]*cached)
		c.shards[i].unknown = make(map[cacheKey]time.Time)
	}
	return c
}

// run looks up queued entries, those that gathered at once, until ctx ends.
func (c *keyCache) run(ctx context.Context) {
	gathered := time.NewTimer(refreshGather)
	defer gathered.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-c.queue:
			gathered.Reset(refreshGather)
			select {
			case <-ctx.Done():
				return
			case <-gathered.C:
			}
			c.refresh(ctx, first)
		}
	}
}

// refresh looks up an entry and those that are queued behind it. A failure leaves the entry, and others report it.
func (c *keyCache) refresh(ctx context.Context, first refresh) {
	var all sync.WaitGroup
	look := func(r refresh) { all.Go(func() { _, _ = c.load(ctx, r.key, r.find, ahead) }) }
	look(first)
	for range min(len(c.queue), refreshMost-1) {
		look(<-c.queue)
	}
	all.Wait()
}

func (c *keyCache) shard(k cacheKey) *cacheShard { return &c.shards[k.hash[0]%cacheShards] }

// get returns the identity behind a key, as of now. It blocks only for a key not in use during the last TTL.
func (c *keyCache) get(ctx context.Context, now time.Time, k cacheKey, find lookup) (Identity, error) {
	s := c.shard(k)
	var until time.Time
	s.mu.RLock()
	e := s.known[k]
	if e == nil {
		until = s.unknown[k]
	}
	s.mu.RUnlock()
	if e == nil && now.Before(until) {
		return Identity{}, ErrUnknown
	}
	if e == nil {
		return c.load(ctx, k, find, stranger)
	}
	age := now.Sub(e.at)
	good := age < c.ttl && e.at.UnixNano() > e.mark.Load()
	// Of one that is not good the request itself asks, unless it has no time to: storage seems away, and may only be slow.
	if age > c.ttl/2 && (good || c.away()) {
		c.ahead(e, k, find)
	}
	if good {
		return e.who, nil
	}
	who, err := c.load(ctx, k, find, overdue)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return e.who, nil // stale, since Postgres is away
	}
	return who, err
}

// markOf is where changes of an account are marked: FNV-1a of its name.
func (c *keyCache) markOf(account string) *atomic.Int64 {
	h := uint32(2166136261)
	for i := range len(account) {
		h = (h ^ uint32(account[i])) * 16777619
	}
	return &c.changed[h%accountMarks]
}

// outdated makes what is known of an account count no more, after this gateway has changed it. Other gateways learn of
// it within their TTL.
func (c *keyCache) outdated(account string) { c.markOf(account).Store(time.Now().UnixNano()) }

// ahead queues a look-up of an entry in use, once.
func (c *keyCache) ahead(e *cached, k cacheKey, find lookup) {
	if !e.pending.CompareAndSwap(false, true) {
		return
	}
	select {
	case c.queue <- refresh{k, find}:
	default:
		e.pending.Store(false) // the queue is full: a later request tries again, at the latest by blocking
	}
}

// occasion is why a key is looked up. Requests share a look-up only with those of the same occasion: one that must
// be short would otherwise cut off one that has time.
type occasion byte

const (
	stranger occasion = 's' // not in the cache
	overdue  occasion = 'o' // past its TTL, and a request waits
	ahead    occasion = 'a' // in the background
)

// errBusy says that too many unknown keys are being looked up. It says nothing about storage.
var errBusy = errors.New("too many look-ups of unknown keys")

// load asks for an identity and stores the answer.
func (c *keyCache) load(ctx context.Context, k cacheKey, find lookup, why occasion) (Identity, error) {
	s := c.shard(k)
	v, err, _ := s.flight.Do(string(why)+k.account+string(k.hash[:]), func() (any, error) {
		patience := lookupTimeout
		if why == overdue && c.away() {
			patience = awayTimeout
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if why == stranger {
			select {
			case c.strangers <- struct{}{}:
				defer func() { <-c.strangers }()
			case <-ctx.Done():
				return Identity{}, errBusy
			}
		}
		asked := time.Now() // an entry is as old as the question, not as the answer
		who, err := find(ctx, k)
		c.store(s, k, who, asked, err)
		return who, err
	})
	who, _ := v.(Identity)
	return who, err
}

// away reports whether storage failed to answer a moment ago.
func (c *keyCache) away() bool { return time.Now().UnixNano() < c.outage.Load() }

func (c *keyCache) store(s *cacheShard, k cacheKey, who Identity, asked time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || errors.Is(err, ErrUnknown) {
		c.outage.Store(0)
	}
	switch {
	case err == nil:
		c.metrics.keyLookups.WithLabelValues("known").Inc()
		delete(s.unknown, k)
		makeRoom(s.known, k, knownMax/cacheShards)
		s.known[k] = &cached{who: who, at: asked, mark: c.markOf(who.Account)}
	case errors.Is(err, ErrUnknown):
		c.metrics.keyLookups.WithLabelValues("unknown").Inc()
		delete(s.known, k)
		makeRoom(s.unknown, k, unknownMax/cacheShards)
		s.unknown[k] = asked.Add(unknownTTL)
	default:
		c.metrics.keyLookups.WithLabelValues("failed").Inc()
		c.outage.Store(time.Now().Add(outagePause).UnixNano())
		if e := s.known[k]; e != nil {
			e.pending.Store(false)
		}
	}
}

// makeRoom drops an arbitrary entry when k would be one too many: a wrong guess costs one look-up.
func makeRoom[V any](m map[cacheKey]V, k cacheKey, most int) {
	if _, there := m[k]; there || len(m) < most {
		return
	}
	for victim := range m {
		delete(m, victim)
		return
	}
}
