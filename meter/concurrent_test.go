package meter_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// crowd runs callers on both gateways at once, each with its number, and waits for all.
func (r *rules) crowd(callers int, do func(caller int, e *meter.Engine)) {
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() { do(caller, r.engines[caller%2]) })
	}
	wg.Wait()
}

// requests are made before the callers start: ids come from one goroutine.
func (r *rules) requests(n int, key byte) []meter.Reserve {
	out := make([]meter.Reserve, n)
	for i := range out {
		out[i] = r.request(r.baseMs, key)
	}
	return out
}

// settled reads the account's partition at rest: nothing is held, every invariant holds, and what the ledger says was
// spent is returned.
func (r *rules) settled() (spent meter.Credits) {
	r.t.Helper()
	s, err := metertest.Read(r.ctx, r.client, r.layout, r.layout.PartitionOf(payer))
	require.NoError(r.t, err)
	require.NoError(r.t, metertest.Check(s))
	require.Empty(r.t, s.Open)
	for _, e := range s.Entries() {
		for _, l := range e.Lines {
			spent += l.Spent
		}
	}
	return spent
}

// 64 callers on two gateways want 1,200 of the 1,000 that the account has in several grants: exactly 1,000 are
// charged, every other request is refused.
func TestCrowdNeverOversells(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	for _, amount := range []meter.Credits{1, 299, 600} { // beside 100
		r.grant(amount)
	}
	requests := r.requests(1_200, 0)
	var charged, refused atomic.Int64
	r.crowd(64, func(caller int, e *meter.Engine) {
		for i := caller; i < len(requests); i += 64 {
			q := requests[i]
			q.Amount = 1
			d, err := e.Reserve(r.ctx, q)
			if err == nil && d.Code == meter.CodeInsufficient {
				refused.Add(1)
				continue
			}
			if err != nil || d.Code != meter.CodeOK {
				t.Errorf("reserve: %v, code %d", err, d.Code)
				continue
			}
			if d, err = e.Commit(r.ctx, full(q)); err != nil || d.Code != meter.CodeOK {
				t.Errorf("commit: %v, code %d", err, d.Code)
				continue
			}
			charged.Add(1)
		}
	})
	require.Equal(t, int64(1_000), charged.Load())
	require.Equal(t, int64(200), refused.Load())
	require.Equal(t, meter.Credits(1_000), r.settled())
	r.requireBalance(0, 0)
}

// Every caller settles every reservation in its own way, on both gateways at once: one of them decides, and all are
// told the same outcome.
func TestCrowdSettlesEachReservationOnce(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	const callers = 16
	requests := r.requests(60, 0)
	for i := range requests {
		requests[i].Amount = 3
	}
	answers := make([][]meter.Decision, callers)
	r.crowd(callers, func(caller int, e *meter.Engine) {
		rng := rand.New(rand.NewPCG(1, uint64(caller)))
		for _, q := range requests {
			_, err := e.Reserve(r.ctx, q) // all callers ask for the same id: it is held once, or refused
			if err != nil {
				t.Errorf("reserve: %v", err)
			}
			s := full(q)
			s.Amount = meter.Credits(1 + rng.IntN(3))
			verb := e.Commit
			if rng.IntN(3) == 0 {
				verb = e.Release
			}
			d, err := verb(r.ctx, s)
			if err != nil {
				t.Errorf("settle: %v", err)
			}
			answers[caller] = append(answers[caller], d)
		}
	})
	var charged meter.Credits
	for i := range requests {
		outcome := answers[0][i].Reservation
		for caller := range answers {
			require.Equal(t, outcome, answers[caller][i].Reservation, "request %d, caller %d", i, caller)
		}
		charged += outcome.Charged
	}
	require.Positive(t, charged)
	require.Equal(t, charged, r.settled())
	r.requireBalance(100-charged, 0)
}

// Of many requests under one Idempotency-Key one is held and the others are told so; once it is charged all of them
// are told by whom.
func TestCrowdUnderOneKeyIsChargedOnce(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	requests := r.requests(64, 1)
	var won atomic.Pointer[meter.Reserve]
	r.crowd(len(requests), func(caller int, e *meter.Engine) {
		q := requests[caller]
		d, err := e.Reserve(r.ctx, q)
		switch {
		case err != nil:
			t.Errorf("reserve: %v", err)
		case d.Code == meter.CodeOK:
			if !won.CompareAndSwap(nil, &q) {
				t.Error("two requests hold one key")
			}
		case d.Code != meter.CodeKeyInProgress:
			t.Errorf("code %d", d.Code)
		}
	})
	require.NotNil(t, won.Load())
	r.ok(r.engines[0].Commit(r.ctx, full(*won.Load())))
	r.crowd(len(requests), func(caller int, e *meter.Engine) {
		d, err := e.Reserve(r.ctx, requests[caller])
		want := meter.CodeKeyReplay
		if requests[caller].ID == won.Load().ID {
			want = meter.CodeConflict // its id has an outcome
		}
		if err != nil || d.Code != want || d.Reservation.ID != won.Load().ID {
			t.Errorf("%v, code %d, %s", err, d.Code, d.Reservation.ID)
		}
	})
	require.Equal(t, meter.Credits(10), r.settled())
}
