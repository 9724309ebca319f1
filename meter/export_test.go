package meter

import (
	"context"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"

	"creditgate/lua"
)

// What the model test needs beside the engine's methods: verbs that only the sweeper sends, several verbs in one
// flight, and an engine that does nothing by itself.

type Op = op

func (o *Op) Code() Code { return o.code }

func (e *Engine) Redis() redis.UniversalClient { return e.client() }

// OpenNow opens every partition, as Run does in the background.
func (e *Engine) OpenNow(ctx context.Context) error {
	for _, p := range e.partitions {
		p.shut(p.epoch.Load(), CodeFenced)
		if err := e.openPartition(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// Mutate plants a bug in the scripts.
func (e *Engine) Mutate(old, planted string) {
	if !e.HasCode(old) {
		panic("the scripts have no such text, and nothing would be planted: " + old)
	}
	e.library = lua.New(strings.Replace(e.library.Body(), old, planted, 1))
}

// HasCode reports whether the scripts contain some text.
func (e *Engine) HasCode(text string) bool {
	return strings.Contains(e.library.Source, text)
}

func (e *Engine) RunOp(ctx context.Context, o *Op) (Decision, error) {
	return e.run(ctx, o, time.Time{})
}

// Fly sends operations in one flight.
func (e *Engine) Fly(ops ...*Op) ([]Decision, error) {
	if err := e.batch.do(ops...); err != nil {
		return nil, err
	}
	out := make([]Decision, len(ops))
	for i, o := range ops {
		if o.err != nil {
			return nil, o.err
		}
		out[i], _ = o.decision(e.layout) // the error repeats CodeError
		e.partitions[o.partition].saw(o.head)
	}
	return out, nil
}

// Err is why an operation of FlyAll has no reply.
func (o *Op) Err() error { return o.err }

// FlyAll is Fly for operations of which some have no reply.
func (e *Engine) FlyAll(ops ...*Op) error { return e.batch.do(ops...) }

func ReserveOp(r Reserve) *Op                       { return reserveOp(r) }
func CommitOp(s Settle, inLedger bool) *Op          { return commitOp(s, s.Reserved > 0, inLedger) }
func ReleaseOp(s Settle) *Op                        { return settleOp(verbRelease, s.ID, s.Account) }
func ExpireOp(id ReservationID, account string) *Op { return settleOp(verbExpire, id, account) }
func ExtendOp(id ReservationID, leaseMs int64) *Op  { return settleOp(verbExtend, id, "").i48(leaseMs) }

func ReadOp(p uint16, id ID, account string) *Op {
	return newOp(verbRead, p, id, account).u8(readAccount)
}

func LoadOp(p uint16, id ID, account string, epoch uint64) *Op {
	return newOp(verbLoad, p, id, account).u64(epoch).bytes16(AppendAccount(nil, Account{}))
}

func GrantOp(p uint16, g GrantChange) *Op     { return grantOp(p, g) }
func RevokeOp(p uint16, r Revocation) *Op     { return revokeOp(p, r) }
func ReverseOp(p uint16, r Reversal) *Op      { return reverseOp(p, r) }
func MoveExpiryOp(p uint16, m ExpiryMove) *Op { return moveExpiryOp(p, m) }
func LapseOp(p uint16, id ID, account string, g ID) *Op {
	return newOp(verbLapse, p, id, account).uuid(g)
}
func (e *Engine) DropOp(p uint16, slot string) *Op { return e.dropOp(p, e.layout.Keys(p), slot) }
func FlushedOp(p uint16, id ID, at, trim Position) *Op {
	return newOp(verbFlushed, p, id, "").u64(at.Epoch).u64(at.Pseq).u64(trim.Epoch).u64(trim.Pseq)
}

func SuspendOp(p uint16, id ID, account string, suspended bool, version uint32) *Op {
	flag := byte(0)
	if suspended {
		flag = 1
	}
	return newOp(verbSuspend, p, id, account).u32(version).u8(flag)
}

func (o *Op) Body() string { return string(o.body) }

func LoadKeyOp(key *IdempotencyKey, r Reservation) *Op {
	o := newOp(verbLoadKey, r.ID.Partition, r.ID.ID, "")
	return o.bytes16(AppendReservation(nil, r)).keyPart(key)
}

// Lapser does its rounds when it is told to, and has no lock.
type Lapser struct{ l *lapser }

func (e *Engine) NewLapser() Lapser { return Lapser{newLapser(e)} }

// Round returns how many grants were due, in so far as they were looked at.
func (l Lapser) Round(ctx context.Context) (found int, err error) {
	s, err := l.l.round(ctx)
	return s.found, err
}

// LapseDue is a round that begins anew, of somebody who remembers none before.
func (e *Engine) LapseDue(ctx context.Context) error {
	_, err := e.NewLapser().Round(ctx)
	return err
}

// LapseNow is what SweepNow does about lapses.
func (e *Engine) LapseNow(ctx context.Context) error { return e.lapseNow(ctx) }

// SweepSkipped is how often a sweep passed over what it could not handle.
func (e *Engine) SweepSkipped(what string) float64 {
	var m dto.Metric
	_ = e.metrics.skipped.WithLabelValues(what).Write(&m) // never fails
	return m.GetCounter().GetValue()
}

// EpochOf is the epoch under which the engine has a partition open.
func (e *Engine) EpochOf(p uint16) uint64 { return e.partitions[p].epoch.Load() }
