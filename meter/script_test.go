package meter_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// stage is one partition on a private Redis in which a scenario is played. Ids have names, leases and expiries are
// in hours, and the dump rounds to hours, so that the same scenario always gives the same text.
type stage struct {
	t      *testing.T
	engine *meter.Engine
	layout meter.Layout
	now    time.Time
	names  map[meter.ID]string
	ids    map[string]meter.ID
	out    strings.Builder
}

const (
	hourMs   = int64(time.Hour / time.Millisecond)
	customer = "acme"
	longTime = 10 * time.Hour
)

// newStage runs nothing beside the verbs: no sweeper, no flusher.
func newStage(t *testing.T) *stage {
	t.Helper()
	layout := meter.Layout{Number: 1, Partitions: 1}
	book := metertest.NewBook(layout)
	book.AddAccount(customer)
	e, err := meter.New(meter.Options{
		RedisURL: redisd.Test(t).URL(), Layout: layout, Book: book, Rebuild: book, Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Redis().Close()) })
	require.NoError(t, e.OpenNow(t.Context()))
	return &stage{
		t: t, engine: e, layout: layout, now: time.Now(), names: map[meter.ID]string{}, ids: map[string]meter.ID{},
	}
}

// id is the id of this name, made at its first use.
func (s *stage) id(name string) meter.ID {
	if _, ok := s.ids[name]; !ok {
		s.ids[name] = meter.NewID(s.now.Add(time.Duration(len(s.ids)) * time.Millisecond)) // in order of use
		s.names[s.ids[name]] = name
	}
	return s.ids[name]
}

func (s *stage) rid(name string) meter.ReservationID {
	return s.layout.NewReservationID(s.id(name), customer)
}

// do sends one operation and writes down what it was and how it was answered.
func (s *stage) do(what string, o *meter.Op) {
	s.t.Helper()
	d, err := s.engine.RunOp(s.t.Context(), o)
	require.NoError(s.t, err)
	fmt.Fprintf(&s.out, "%-44s %s", what, d.Code)
	if r := d.Reservation; r.State != 0 {
		fmt.Fprintf(&s.out, "  %s %s: charged %s of %s, available %s", s.names[r.ID.ID], r.State, r.Charged, r.Amount, r.Available)
	}
	s.out.WriteByte('\n')
}

func (s *stage) grant(name string, rank uint8, paid bool, amount meter.Credits, expiresIn int64) {
	s.t.Helper()
	s.lot(name, meter.Grant{Rank: rank, Paid: paid, Available: amount}, expiresIn)
}

// lot grants g, with what every grant of a scenario has.
func (s *stage) lot(name string, g meter.Grant, expiresIn int64) {
	s.t.Helper()
	g.ID, g.Bucket, g.ExpiresMs, g.CreatedMs = s.id(name), name, meter.Never, s.now.UnixMilli()
	if expiresIn != 0 {
		g.ExpiresMs = s.now.UnixMilli() + expiresIn*hourMs
	}
	s.do(fmt.Sprintf("grant %s of %s", name, g.Available), meter.GrantOp(s.layout.PartitionOf(customer), meter.GrantChange{
		Account: customer, Grant: g, Note: meter.Note{Reason: "gift", Actor: "ops"},
	}))
}

func (s *stage) reserve(name string, amount meter.Credits) {
	s.t.Helper()
	s.do(fmt.Sprintf("reserve %s of %s", name, amount), meter.ReserveOp(meter.Reserve{
		ID: s.rid(name), Account: customer, Amount: amount, Lease: longTime, MaxInFlight: 3,
		Note: meter.Note{Operation: "generate", PolicyVersion: "v1", KeyID: "k1"},
	}))
}

func (s *stage) settle(name string, amount meter.Credits) meter.Settle {
	return meter.Settle{ID: s.rid(name), Account: customer, Amount: amount, Units: 2}
}

func (s *stage) commit(name string, amount meter.Credits) {
	s.t.Helper()
	s.do(fmt.Sprintf("commit %s for %s", name, amount), meter.CommitOp(s.settle(name, amount), true))
}

func (s *stage) release(name string) {
	s.t.Helper()
	s.do("release "+name, meter.ReleaseOp(s.settle(name, 0)))
}

func (s *stage) expire(name string) {
	s.t.Helper()
	s.do("expire "+name, meter.ExpireOp(s.rid(name), customer))
}

// leaseOver moves the end of every open lease into the past.
func (s *stage) leaseOver() {
	s.t.Helper()
	key, client := s.layout.Keys(s.layout.PartitionOf(customer)).Open(), s.engine.Redis()
	open, err := client.HGetAll(s.t.Context(), key).Result()
	require.NoError(s.t, err)
	for id, packed := range open {
		r, err := meter.UnpackReservation([]byte(packed))
		require.NoError(s.t, err)
		r.DeadlineMs -= 20 * hourMs
		require.NoError(s.t, client.HSet(s.t.Context(), key, id, meter.AppendReservation(nil, r)).Err())
	}
}

func (s *stage) revoke(name, grant string, amount meter.Credits) {
	s.t.Helper()
	s.do(fmt.Sprintf("revoke %s: %s of %s", name, amount, grant), meter.RevokeOp(s.layout.PartitionOf(customer), meter.Revocation{
		ID: s.id(name), Account: customer, Grant: s.id(grant), Amount: amount, Note: meter.Note{Reason: "chargeback"},
	}))
}

// revokeInstead is a revocation in place of one of undone; owed is what Postgres has as the grant's debt.
func (s *stage) revokeInstead(name, grant string, amount, undone, owed meter.Credits) {
	s.t.Helper()
	s.do(fmt.Sprintf("revoke %s: %s of %s, in place of %s", name, amount, grant, undone),
		meter.RevokeOp(s.layout.PartitionOf(customer), meter.Revocation{
			ID: s.id(name), Account: customer, Grant: s.id(grant), Amount: amount, Note: meter.Note{Reason: "chargeback"},
			Undone: &meter.Reversal{
				ID: s.id(name + " undoes"), Amount: undone, Grant: meter.Grant{Debt: owed}, Note: meter.Note{Reason: "unfrozen"},
			},
			CheckedPseq: 99,
		}))
}

// reverse undoes a revocation as its entry has it; owed is what Postgres has as the grant's debt.
func (s *stage) reverse(name, grant string, amount, owed meter.Credits) {
	s.t.Helper()
	s.do(fmt.Sprintf("reverse %s: %s of %s", name, amount, grant),
		meter.ReverseOp(s.layout.PartitionOf(customer), meter.Reversal{
			ID: s.id(name), Account: customer, Amount: amount, CheckedPseq: 99,
			Grant: meter.Grant{
				ID: s.id(grant), Bucket: grant, Rank: 1, Debt: owed, ExpiresMs: meter.Never, CreatedMs: s.id(grant).CreatedMs(),
			},
			Note: meter.Note{Reason: "dispute won"},
		}))
}

func (s *stage) moveExpiry(name, grant string, hours int64) {
	s.t.Helper()
	s.do(fmt.Sprintf("move %s: %s to %+dh", name, grant, hours), meter.MoveExpiryOp(s.layout.PartitionOf(customer), meter.ExpiryMove{
		ID: s.id(name), Account: customer, Grant: s.id(grant), ExpiresMs: s.now.UnixMilli() + hours*hourMs,
	}))
}

func (s *stage) lapse(grant string) {
	s.t.Helper()
	s.do("lapse "+grant, meter.LapseOp(s.layout.PartitionOf(customer), meter.NewID(s.now), customer, s.id(grant)))
}

// TestScripts plays each verb through its states and compares replies and the whole state of the partition with
// testdata/scripts. -update writes them anew: read the difference before committing it.
func TestScripts(t *testing.T) {
	t.Parallel()
	for name, play := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			play(s)
			state, err := metertest.Read(t.Context(), s.engine.Redis(), s.layout, s.layout.PartitionOf(customer))
			require.NoError(t, err)
			s.out.WriteString("\n" + state.Text(metertest.Format{Round: time.Hour, Names: s.names}))
			golden(t, filepath.Join("testdata", "scripts", name+".txt"), s.out.String())
		})
	}
}

func scenarios() map[string]func(*stage) {
	three := func(s *stage) {
		s.grant("monthly", 1, false, 3000, 0)
		s.grant("promo", 0, false, 2000, 100)
		s.grant("purchased", 2, true, 5000, 0)
	}
	return map[string]func(*stage){
		"reserve": func(s *stage) {
			three(s)
			s.reserve("r1", 6000)
			s.reserve("r1", 6000) // a repeat
			s.reserve("r2", 4001) // one thousandth too much
			s.reserve("r3", 4000)
			s.reserve("r4", 1)
		},
		"reserve_refused": func(s *stage) {
			three(s)
			s.do("suspend", meter.SuspendOp(s.layout.PartitionOf(customer), meter.NewID(s.now), customer, true, 1))
			s.reserve("r1", 1000)
			s.do("an older clear", meter.SuspendOp(s.layout.PartitionOf(customer), meter.NewID(s.now), customer, false, 1))
			s.reserve("r1", 1000)
			s.do("clear", meter.SuspendOp(s.layout.PartitionOf(customer), meter.NewID(s.now), customer, false, 2))
			for i := range 4 { // the fourth is one more than may be in flight
				s.reserve(fmt.Sprintf("r%d", i), 1000)
			}
			s.release("r9")
			s.reserve("r9", 1000) // a delayed reserve after its release
		},
		"commit": func(s *stage) {
			three(s)
			s.reserve("all", 1000)
			s.commit("all", 1000)
			s.commit("all", 1000)
			s.commit("all", 999)
			s.release("all")
			s.reserve("some", 7000)
			s.commit("some", 7001)
			s.commit("some", 1500) // purchased comes back first, then monthly
			s.commit("unknown", 1000)
		},
		"release": func(s *stage) {
			three(s)
			s.reserve("r1", 4000)
			s.release("r1")
			s.release("r1")
			s.commit("r1", 4000)
			s.do("extend r1", meter.ExtendOp(s.rid("r1"), hourMs))
		},
		"extend": func(s *stage) {
			three(s)
			s.reserve("r1", 1000)
			s.do("extend r1 by less", meter.ExtendOp(s.rid("r1"), hourMs))
			s.do("extend r1 by more", meter.ExtendOp(s.rid("r1"), 20*hourMs))
			s.do("extend unknown", meter.ExtendOp(s.rid("r2"), hourMs))
		},
		"expire_and_late": func(s *stage) {
			three(s)
			s.reserve("late", 4000)
			s.reserve("poor", 4000)
			s.expire("late")
			s.leaseOver()
			s.expire("late")
			s.expire("poor")
			s.expire("late")
			s.commit("late", 3000)
			s.commit("late", 3000)
			s.reserve("rest", 5000)
			s.commit("poor", 4000) // 2 are left
			s.commit("poor", 4000)
			s.release("poor")
		},
		"revoke": func(s *stage) {
			three(s)
			s.reserve("r1", 4000) // 2 of promo, 2 of monthly
			s.revoke("v1", "monthly", 2500)
			s.revoke("v1", "monthly", 2500)
			s.release("r1") // pays the debt of 1.5 first
		},
		"revoke_instead": func(s *stage) {
			three(s)
			s.reserve("r1", 4000)                           // 2 of promo, 2 of monthly
			s.revoke("v1", "monthly", 2500)                 // 1 taken, 1.5 debt
			s.revokeInstead("v2", "monthly", 3000, 2500, 0) // 1 taken, 2 debt
			s.revokeInstead("v2", "monthly", 3000, 2500, 0)
			s.release("r1") // nothing is left of monthly
			s.revokeInstead("v4", "monthly", 3500, 3000, 0)
			s.revokeInstead("v5", "monthly", 3500, 3500, 500)
		},
		"reverse": func(s *stage) {
			three(s)
			s.reserve("r1", 4000)           // 2 of promo, 2 of monthly
			s.revoke("v1", "monthly", 2500) // 1 taken, 1.5 debt
			s.reverse("w1", "monthly", 2500, 0)
			s.reverse("w1", "monthly", 2500, 0)
			s.revoke("v2", "monthly", 3000) // 1 taken, 2 debt
			s.release("r1")                 // pays it: nothing is left of monthly
			s.reverse("w2", "monthly", 3000, 0)
		},
		"lapse": func(s *stage) {
			three(s)
			s.reserve("r1", 1500)
			s.lapse("promo")
			s.moveExpiry("m1", "promo", -1)
			s.moveExpiry("m1", "promo", -1)
			s.lapse("promo")
			s.lapse("promo")
			s.release("r1") // what returns to an expired grant lapses
			s.moveExpiry("m2", "promo", 5)
		},
		"fair_use": func(s *stage) {
			s.grant("promo", 0, false, 1000, 100)
			s.lot("limit", meter.Grant{Rank: 1, Available: 2000, Unlimited: true, Stops: true}, 50)
			s.grant("purchased", 2, true, 5000, 0)
			s.reserve("r1", 3001) // all of the promotion and of the limit, and one thousandth more
			s.reserve("r1", 3000)
			s.commit("r1", 3000)
			s.reserve("r2", 1) // used up, and nothing follows
			s.lapse("limit")   // not over yet
			s.moveExpiry("m1", "limit", -1)
			s.reserve("r2", 1)
			s.lapse("limit")
		},
		"fair_use_revoked": func(s *stage) {
			s.lot("limit", meter.Grant{Rank: 1, Available: 2000, Unlimited: true, Stops: true}, 50)
			s.grant("purchased", 2, true, 5000, 0)
			s.revoke("v1", "limit", 500)
			s.reserve("r1", 2000) // of both: what anything was revoked of stops no more
			s.commit("r1", 2000)
		},
		"move_expiry": func(s *stage) {
			s.grant("late", 0, false, 1000, 50)
			s.grant("early", 0, false, 1000, 40)
			s.moveExpiry("m1", "late", 30) // now drains first
			s.reserve("r1", 1000)
		},
	}
}

var update = flag.Bool("update", false, "write golden files anew")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
