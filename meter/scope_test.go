package meter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/redisd"
)

// scopeDepth is how many steps each sequence has. Depth 5 was run by hand: 161,051 sequences.
const scopeDepth = 4

// scope is one sequence of steps, on an account of its own: two reservations under one Idempotency-Key, and two
// grants, of which the first expires with the first lease.
type scope struct {
	account string
	a, b    meter.Reserve
	first   meter.ID
	revoked meter.ID
	steps   []int
}

// steps are the alphabet but for time, which passes for all sequences at once.
func (w *world) steps() []func(*scope) verb {
	return []func(*scope) verb{
		func(s *scope) verb { return w.reserving(s.a) },
		func(s *scope) verb { return w.reserving(s.b) },
		func(s *scope) verb { return w.committing(full(s.a)) },
		func(s *scope) verb { return w.committing(part(s.a)) },
		func(s *scope) verb { return w.committing(full(s.b)) },
		func(s *scope) verb { return w.releasing(full(s.a)) },
		func(s *scope) verb { return w.releasing(full(s.b)) },
		func(s *scope) verb { return w.expiring(s.a.ID, s.account) },
		func(s *scope) verb { return w.lapsing(s.account, s.first) },
		func(s *scope) verb {
			return w.revoking(meter.Revocation{ID: s.revoked, Account: s.account, Grant: s.first, Amount: 1})
		},
	}
}

func part(q meter.Reserve) meter.Settle {
	s := full(q)
	s.Amount = 1
	return s
}

// TestSmallScope plays every sequence of scopeDepth steps over two reservations, and compares all of the state after
// each step. Sequences in which time passes at the same steps run side by side, hundreds in a flight.
func TestSmallScope(t *testing.T) {
	t.Parallel()
	playScope(t, scopeDepth, meter.Grant{Paid: true})
}

// TestSmallScopeFairUse is the same, a step shorter, where the first grant is a fair-use cap that stops the second.
func TestSmallScopeFairUse(t *testing.T) {
	t.Parallel()
	playScope(t, scopeDepth-1, meter.Grant{Unlimited: true, Stops: true})
}

// playScope plays the sequences of so many steps, where first says what kind of grant the first one is.
func playScope(t *testing.T, depth int, first meter.Grant) {
	t.Helper()
	server := redisd.Test(t)
	sequences := 0
	for pattern := range 1 << depth { // bit i: step i is time
		w := newWorld(t.Context(), t, server, 1)
		alphabet := w.steps()
		scopes := w.scopes(pattern, depth, len(alphabet), first)
		for step := range depth {
			if pattern>>step&1 == 1 {
				w.models[0].NowMs += 2_000
				w.setClock()
				continue
			}
			w.each(scopes, func(s *scope) verb { return alphabet[s.steps[step]](s) })
			w.compare()
		}
		sequences += len(scopes)
		w.close()
	}
	want := 1
	for range depth {
		want *= 11
	}
	require.Equal(t, want, sequences)
}

// scopes are all sequences of a pattern, their accounts loaded and funded.
func (w *world) scopes(pattern, depth, alphabet int, first meter.Grant) []*scope {
	sequences := [][]int{nil}
	for step := range depth {
		var longer [][]int
		for _, s := range sequences {
			if pattern>>step&1 == 1 {
				longer = append(longer, append(slices.Clone(s), -1))
				continue
			}
			for next := range alphabet {
				longer = append(longer, append(slices.Clone(s), next))
			}
		}
		sequences = longer
	}
	var scopes []*scope
	nowMs := w.models[0].NowMs
	for i, steps := range sequences {
		s := &scope{account: fmt.Sprintf("s%d", i), steps: steps, first: w.id(nowMs), revoked: w.id(nowMs)}
		q := meter.Reserve{Account: s.account, Amount: 3, Lease: 2 * time.Second, Note: meter.Note{
			Operation: "apply", Key: &meter.IdempotencyKey{Hash: w.id(nowMs)},
		}}
		s.a, s.b = q, q
		s.a.ID, s.b.ID = w.layout.NewReservationID(w.id(nowMs), s.account), w.layout.NewReservationID(w.id(nowMs), s.account)
		s.b.Amount = 2
		scopes = append(scopes, s)
	}
	w.each(scopes, func(s *scope) verb { return w.loading(s.account) })
	for i, expires := range []int64{nowMs + 2_000, meter.Never} {
		w.each(scopes, func(s *scope) verb {
			g := first
			if g.ID = s.first; i == 1 {
				g = meter.Grant{ID: w.id(nowMs), Rank: 1}
			}
			g.Bucket, g.Available, g.ExpiresMs, g.CreatedMs = "monthly", 2, expires, nowMs
			return w.granting(meter.GrantChange{Account: s.account, Grant: g})
		})
	}
	return scopes
}

// each sends one verb of every scope, in flights as large as they may be.
func (w *world) each(scopes []*scope, next func(*scope) verb) {
	for flight := range slices.Chunk(scopes, 512) {
		var verbs []verb
		for _, s := range flight {
			verbs = append(verbs, next(s))
		}
		w.do(w.verbs%2, false, verbs...)
	}
}
