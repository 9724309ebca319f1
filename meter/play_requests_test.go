package meter_test

import (
	"time"

	"pgregory.net/rapid"

	"creditgate/meter"
)

// reserve asks under a new id, or repeats an old request.
func (p *play) reserve(t *rapid.T) verb {
	q, old := p.known(t)
	if !old || rapid.IntRange(0, 9).Draw(t, "repeat") > 2 {
		q = p.newReserve(t)
	}
	return p.reserving(q)
}

func (p *play) newReserve(t *rapid.T) meter.Reserve {
	account := p.account(t)
	day := rapid.SampledFrom([]int64{0, 0, 0, -1, 1}).Draw(t, "day") // clocks of gateways differ at midnight
	createdMs := max(p.baseMs, p.home(account).OutcomesFromMs) + day*24*time.Hour.Milliseconds()
	q := meter.Reserve{
		ID: p.layout.NewReservationID(p.id(createdMs), account), Account: account,
		Amount: meter.Credits(rapid.IntRange(1, 9).Draw(t, "amount")),
		Lease:  time.Duration(rapid.SampledFrom([]int{1, 2, 10}).Draw(t, "lease")) * time.Second,
		Note:   meter.Note{Operation: "apply", PolicyVersion: "v1", KeyID: "k"},
	}
	if rapid.IntRange(0, 9).Draw(t, "few") == 0 {
		q.MaxInFlight = 2
	}
	if rapid.Bool().Draw(t, "keyed") {
		q.Note.Key = &meter.IdempotencyKey{
			Hash:        meter.ID{p.keyRound, byte(rapid.IntRange(1, 2).Draw(t, "key")), account[0]},
			Fingerprint: meter.ID{byte(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "fingerprint"))},
		}
	}
	p.reservations = append(p.reservations, q)
	return q
}

// known is a request that was made before. One whose key was dropped meanwhile, a day later, is left alone unless it
// has an outcome: it would rightly be charged again.
func (p *play) known(t *rapid.T) (meter.Reserve, bool) {
	n := len(p.reservations)
	if n == 0 {
		return meter.Reserve{}, false
	}
	q := p.reservations[n-1-rapid.IntRange(0, min(n, poolMax)-1).Draw(t, "which")]
	m := p.models[q.ID.Partition]
	_, open := m.Open[q.ID.ID]
	_, done := m.Done[q.ID.ID]
	return q, open || done || q.Note.Key == nil || q.Note.Key.Hash[0] == p.keyRound
}

// settle is a settlement of a known reservation, or of one that was never asked for.
func (p *play) settle(t *rapid.T) meter.Settle {
	q, ok := p.known(t)
	if !ok || rapid.IntRange(0, 19).Draw(t, "unasked") == 0 {
		q = p.newReserve(t)
	}
	s := meter.Settle{ID: q.ID, Account: q.Account, Amount: q.Amount, Reserved: q.Amount, Note: q.Note}
	switch rapid.IntRange(0, 29).Draw(t, "odd") {
	case 0: // a bug in a caller: another account of the same partition
		s.Account = map[string]string{"alpha": "beta", "beta": "alpha", "gamma": "gamma"}[s.Account]
	case 1, 2, 3, 4, 5: // a caller that kept nothing but the id
		s.Note = meter.Note{}
	}
	return s
}

func (p *play) commit(t *rapid.T) verb {
	q := p.settle(t)
	switch rapid.IntRange(0, 4).Draw(t, "how much") {
	case 0:
		q.Amount = max(1, q.Amount/2)
	case 1:
		q.Amount = max(1, q.Amount-1)
	case 2:
		q.Amount += meter.Credits(rapid.IntRange(0, 1).Draw(t, "too much"))
	}
	q.Units = uint32(q.Amount)
	if rapid.IntRange(0, 3).Draw(t, "bare") == 0 {
		q.Reserved = 0
	}
	// A gateway says that the ledger has no charge only when it has looked, at the head.
	if p.unsettledInLedger(q.ID) && rapid.Bool().Draw(t, "looked") {
		return p.committingUncharged(q)
	}
	return p.committing(q)
}

func (p *play) unsettledInLedger(id meter.ReservationID) bool {
	for _, e := range p.models[id.Partition].Entries() {
		if e.ID == id.ID && e.Kind != meter.KindExpire {
			return false
		}
	}
	return true
}

func (p *play) release(t *rapid.T) verb { return p.releasing(p.settle(t)) }

func (p *play) extend(t *rapid.T) verb {
	lease := rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second}).Draw(t, "lease")
	return p.extending(p.settle(t).ID, lease)
}

func (p *play) expire(t *rapid.T) verb {
	q := p.settle(t)
	return p.expiring(q.ID, q.Account)
}
