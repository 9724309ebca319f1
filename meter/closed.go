package meter

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// ClosedError is why a partition is closed, for the operator who reads the log, /readyz or `creditgate inspect`. Once the
// cause is gone, any gateway opens the partition by itself within a second.
type ClosedError struct {
	What string // what happened
	Advice

	Err error // ErrFenced if only a person can mend it, else the error underneath
}

// Advice is the way out of a closed partition.
type Advice struct {
	Do   string `json:"do,omitempty"`   // what to do, with the commands
	Cost string `json:"cost,omitempty"` // what that costs; empty: nothing
}

func (e *ClosedError) Error() string {
	if e.Err == nil || errors.Is(e.Err, ErrFenced) {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

// Unwrap implements errors.Is and errors.As.
func (e *ClosedError) Unwrap() error { return e.Err }

const (
	doNothing = "nothing: it opens by itself"
	// REDIS_URL is redis_url, of a Cluster its first host. The command has no double quote, since /readyz is JSON.
	emptyCommand = "redis-cli -c -u REDIS_URL EVAL 'local k=redis.call([[KEYS]],ARGV[1]) for i=1,#k do " +
		"redis.call([[UNLINK]],k[i]) end return #k' 1 '%smeta' '%s*'"
	costOfEmptying = "the charges in ledger records that only Redis has, unless a gateway's journal repeats them. " +
		"Credit that is held goes back to the accounts, and such a request is charged late, once"
)

// emptying is the way out that ends with a rebuild from Postgres; first is what is better, if it is possible. The
// partition is emptied in one step: an account that was left behind would keep its old balance.
func (e *Engine) emptying(partition uint16, first, cost string) Advice {
	tag := e.layout.Keys(partition).tag
	return Advice{
		Do: fmt.Sprintf("%sread what only Redis has with: creditgate inspect partition %d; then empty the partition, and a gateway "+
			"rebuilds it from Postgres: %s", first, partition, fmt.Sprintf(emptyCommand, tag, tag)),
		Cost: cost + costOfEmptying,
	}
}

func (e *Engine) redisBehind(partition uint16, records uint64) error {
	return &ClosedError{
		What: fmt.Sprintf("Postgres has %d ledger records more than Redis: this Redis is an older copy, or a replica that lagged",
			records),
		Advice: e.emptying(partition, "start the Redis that has these records, if it still exists. If it does not: ",
			""),
		Err: ErrFenced,
	}
}

func (e *Engine) postgresBehind(partition uint16, what string) error {
	return &ClosedError{
		What: what + ": this Postgres is an older copy",
		Advice: e.emptying(partition, "restore the Postgres that has these records, if it still exists. If it does not: ",
			"everything that was booked in the lost records: charges are given back, and grants are gone; besides, "),
		Err: ErrFenced,
	}
}

func (e *Engine) forked(partition uint16, at Position) error {
	return &ClosedError{
		What: fmt.Sprintf("record %s in Redis is not the one in Postgres: their histories have forked", at),
		Advice: e.emptying(partition, "start the Redis, or restore the Postgres, that belongs to the other one. If there is none: ",
			""),
		Err: ErrFenced,
	}
}

func (e *Engine) torn(partition uint16) error {
	return &ClosedError{
		What:   "a write failed half-way in Redis, so its balances cannot be believed",
		Advice: e.emptying(partition, "", ""),
		Err:    ErrFenced,
	}
}

func (e *Engine) metaLost(partition uint16) error {
	return &ClosedError{
		What:   "Redis has keys of the partition but not its head (" + e.layout.Keys(partition).Meta() + "): it lost some of its data",
		Advice: e.emptying(partition, "restore the data of this Redis, if there is a copy. If there is none: ", ""),
		Err:    ErrFenced,
	}
}

func (e *Engine) otherFormat(partition uint16, err error) error {
	return &ClosedError{
		What: "the values in Redis are of another version of creditgate",
		Advice: e.emptying(partition, "run the version that wrote them until its ledger is flushed (metric "+
			"creditgate_ledger_pending 0), and stop it. Then ", ""),
		Err: fmt.Errorf("%w: %w", ErrFenced, err),
	}
}

func (e *Engine) otherLayout(want, have string) error {
	return &ClosedError{
		What: fmt.Sprintf("Redis was filled under layout %s, this gateway has %s (number/partitions)", have, want),
		Advice: Advice{Do: "set layout and partitions to what Redis has, or redis_url to the Redis of this installation: " +
			"one that is empty is filled from Postgres"},
		Err: ErrFenced,
	}
}

// wrongClock tells a clock that is off from one that was: what was written then is dated ahead.
func (e *Engine) wrongClock(partition uint16, m partitionMeta, now time.Time) error {
	shown := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04Z") } // a line a minute
	if m.exists && m.LastMs-now.UnixMilli() > clockSkewMax.Milliseconds() && m.LastMs > m.redisMs {
		return &ClosedError{
			What: fmt.Sprintf("the newest write in Redis is dated %s, and it is %s: a clock was ahead", shown(m.LastMs),
				shown(now.UnixMilli())),
			Advice: e.emptying(partition, "wait until that time, when it opens by itself. If that is too long: ", ""),
			Err:    ErrFenced,
		}
	}
	return &ClosedError{
		What: fmt.Sprintf("the clocks differ by more than a minute: Redis has %s, this host %s", shown(m.redisMs),
			shown(now.UnixMilli())),
		Advice: Advice{Do: "set the wrong one right, for instance with: chronyc makestep"},
		Err:    ErrFenced,
	}
}

func databaseAway(err error) error {
	return &ClosedError{What: "Postgres does not answer, and Redis must be compared with it", Advice: Advice{
		Do: "start Postgres, or set postgres_url right; then it opens by itself",
	}, Err: err}
}

// adviceFor is the way out of whatever kept a partition from being opened.
func adviceFor(err error) Advice {
	if c, ok := errors.AsType[*ClosedError](err); ok {
		return c.Advice
	}
	if errors.Is(err, ErrRedisConfig) {
		return Advice{Do: "set it on the running server, and then in its file: a restart with appendonly yes alone would " +
			"begin with no data: redis-cli -u REDIS_URL CONFIG SET appendonly yes maxmemory-policy noeviction, " +
			"then redis-cli -u REDIS_URL CONFIG REWRITE"}
	}
	for _, r := range [...]struct{ prefix, do string }{
		{"LOADING", doNothing + " when Redis has loaded its data"},
		{"BUSY", "wait for the script that runs in Redis, or end it with: redis-cli -u REDIS_URL FUNCTION KILL"},
		{"READONLY", "set redis_url to the master; or, if that is lost, make this replica the master with: " +
			"redis-cli -u REDIS_URL REPLICAOF NO ONE; it is then compared with Postgres"},
		{"MISCONF", "make room on Redis' disk; what failed is in: redis-cli -u REDIS_URL INFO persistence"},
		{"OOM", "give Redis more memory: redis-cli -u REDIS_URL CONFIG SET maxmemory BYTES"},
		{"NOPERM", "allow the user of redis_url this command: redis-cli ACL SETUSER USER +COMMAND"},
		{"NOAUTH", "write user and password into redis_url"},
		{"WRONGPASS", "set user and password in redis_url right"},
		{"NOREPLICAS", "start the replicas that min-replicas-to-write asks for"},
		{"CLUSTERDOWN", "bring back the masters that are missing: redis-cli -u REDIS_URL CLUSTER NODES"},
		{"unknown command", "use Redis 7.0 or newer, or Valkey"},
	} {
		if redis.HasErrorPrefix(err, r.prefix) {
			return Advice{Do: r.do}
		}
	}
	if errors.Is(err, errRebuilding) || errors.Is(err, errChanged) {
		return Advice{Do: doNothing}
	}
	return Advice{Do: "start Redis, or set redis_url right; then it opens by itself"}
}
