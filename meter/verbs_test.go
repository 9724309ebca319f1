package meter_test

import (
	"time"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// verb is one operation for both sides.
type verb struct {
	format    string // of its name in messages, which only failures need
	args      []any
	partition uint16
	op        func() *meter.Op
	model     func(*metertest.Model) meter.Decision
}

func (w *world) reserving(q meter.Reserve) verb {
	return verb{
		"reserve %+v",
		[]any{q},
		q.ID.Partition, func() *meter.Op { return meter.ReserveOp(q) },
		func(m *metertest.Model) meter.Decision { return m.Reserve(q) },
	}
}

func (w *world) committing(s meter.Settle) verb {
	return verb{
		"commit %+v",
		[]any{s},
		s.ID.Partition, func() *meter.Op { return meter.CommitOp(s, true) },
		func(m *metertest.Model) meter.Decision { return m.Commit(s) },
	}
}

// committingUncharged is a commit by somebody who looked in the ledger and found no charge.
func (w *world) committingUncharged(s meter.Settle) verb {
	return verb{
		"commit uncharged %+v",
		[]any{s},
		s.ID.Partition, func() *meter.Op { return meter.CommitOp(s, false) },
		func(m *metertest.Model) meter.Decision { return m.CommitUncharged(s) },
	}
}

func (w *world) releasing(s meter.Settle) verb {
	return verb{
		"release %s of %s",
		[]any{s.ID, s.Account},
		s.ID.Partition, func() *meter.Op { return meter.ReleaseOp(s) },
		func(m *metertest.Model) meter.Decision { return m.Release(s) },
	}
}

func (w *world) extending(id meter.ReservationID, lease time.Duration) verb {
	return verb{
		"extend %s by %s",
		[]any{id, lease},
		id.Partition,
		func() *meter.Op { return meter.ExtendOp(id, lease.Milliseconds()) },
		func(m *metertest.Model) meter.Decision { return m.Extend(id, lease) },
	}
}

func (w *world) expiring(id meter.ReservationID, account string) verb {
	return verb{
		"expire %s of %s",
		[]any{id, account},
		id.Partition, func() *meter.Op { return meter.ExpireOp(id, account) },
		func(m *metertest.Model) meter.Decision { return m.Expire(id, account) },
	}
}

func (w *world) granting(g meter.GrantChange) verb {
	p := w.layout.PartitionOf(g.Account)
	return verb{
		"grant %+v",
		[]any{g},
		p, func() *meter.Op { return meter.GrantOp(p, g) },
		func(m *metertest.Model) meter.Decision { return m.Grant(g) },
	}
}

func (w *world) revoking(r meter.Revocation) verb {
	p := w.layout.PartitionOf(r.Account)
	return verb{
		"revoke %+v",
		[]any{r},
		p, func() *meter.Op { return meter.RevokeOp(p, r) },
		func(m *metertest.Model) meter.Decision { return m.Revoke(r) },
	}
}

func (w *world) reversing(r meter.Reversal) verb {
	p := w.layout.PartitionOf(r.Account)
	return verb{
		"reverse %+v",
		[]any{r},
		p, func() *meter.Op { return meter.ReverseOp(p, r) },
		func(m *metertest.Model) meter.Decision { return m.Reverse(r) },
	}
}

func (w *world) moving(v meter.ExpiryMove) verb {
	p := w.layout.PartitionOf(v.Account)
	return verb{
		"move %+v",
		[]any{v},
		p, func() *meter.Op { return meter.MoveExpiryOp(p, v) },
		func(m *metertest.Model) meter.Decision { return m.MoveExpiry(v) },
	}
}

func (w *world) lapsing(account string, grant meter.ID) verb {
	id, p := w.id(0), w.layout.PartitionOf(account)
	return verb{
		"lapse %s of %s",
		[]any{grant, account},
		p, func() *meter.Op { return meter.LapseOp(p, id, account, grant) },
		func(m *metertest.Model) meter.Decision { return m.Lapse(account, grant) },
	}
}

func (w *world) suspending(account string, suspended bool, version uint32) verb {
	id, p := w.id(0), w.layout.PartitionOf(account)
	return verb{
		"suspend %s %t v%d",
		[]any{account, suspended, version},
		p,
		func() *meter.Op { return meter.SuspendOp(p, id, account, suspended, version) },
		func(m *metertest.Model) meter.Decision { return m.Suspend(account, suspended, version) },
	}
}

func (w *world) balancing(account string) verb {
	id, p := w.id(0), w.layout.PartitionOf(account)
	return verb{
		"balance of %s",
		[]any{account},
		p, func() *meter.Op { return meter.ReadOp(p, id, account) },
		func(m *metertest.Model) meter.Decision { return m.Balance(account) },
	}
}

// loading puts an account that never had an entry into Redis.
func (w *world) loading(account string) verb {
	id, p := w.id(0), w.layout.PartitionOf(account)
	return verb{
		"load %s",
		[]any{account},
		p, func() *meter.Op { return meter.LoadOp(p, id, account, w.models[p].Epoch) },
		func(m *metertest.Model) meter.Decision {
			m.Load(account, meter.Account{})
			return meter.Decision{Code: meter.CodeOK, NowMs: m.NowMs}
		},
	}
}

// dropping forgets the outcome slot, or the key day, of ids created at createdMs.
func (w *world) dropping(p uint16, createdMs int64, keys bool) verb {
	names := w.layout.Keys(p)
	if keys {
		return verb{
			"drop keys", nil, p, func() *meter.Op { return w.engines[0].DropOp(p, names.KeyDay(createdMs)) },
			func(m *metertest.Model) meter.Decision { return m.DropKeys(createdMs) },
		}
	}
	return verb{
		"drop done", nil, p, func() *meter.Op { return w.engines[0].DropOp(p, names.Done(createdMs)) },
		func(m *metertest.Model) meter.Decision { return m.DropDone(createdMs) },
	}
}

// id is a new id, the same whenever a play is played again but for its time.
func (w *world) id(createdMs int64) meter.ID {
	w.serial++
	id := meter.NewID(time.UnixMilli(createdMs))
	for i := range 8 {
		id[15-i] = byte(w.serial >> (8 * i))
	}
	id[6], id[7] = 0x70, 0
	return id
}
