package persist_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// spend uses credit of the grant in force in Redis; Postgres does not know.
func (s *desk) spend(t *testing.T, account string, credits meter.Credits) {
	t.Helper()
	nowMs := s.clock.Now().UnixMilli()
	for _, g := range s.account(account).Grants {
		if g.Live(nowMs) && g.Available >= credits {
			s.commit(account, g.ID, credits, 0, meter.Note{})
			return
		}
	}
	require.Fail(t, "there is no such credit", s.given(t, account))
}

// With a flusher that stands still nobody knows what was used of what ended: it is not given again, however often the
// plan is changed, until that is known.
func TestChangesBackAndForthWhileTheFlusherStands(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	plus := persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(50))}
	s.put(t, plus)
	s.flush(t)
	s.spend(t, "ada", 480*meter.Credit)
	for range 2 {
		s.put(t, premium())
		_, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
		require.NoError(t, err)
		s.put(t, plus)
		s.requireGiven(t, "ada", `500 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	}
	require.Equal(t, [][]any{{true}}, s.query(t, `SELECT due_at < '2027-01-11' FROM creditgate.subscription_due`))
	s.flush(t)
	s.at(t, "2027-01-10 09:01")
	require.Equal(t, 1, s.issue(t))
	s.requireGiven(t, "ada", `
		20 monthly 27-01-10 09:01 to 27-02-01 00:00
		500 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	require.Zero(t, s.issue(t))
	s.flush(t)
	s.requireNoDrift(t)
}

// What an administrator took back is not given again.
func TestWhatWasTakenBackByHandIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	plus := persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(50))}
	s.put(t, plus)
	s.use(t, "ada", "monthly", 100*meter.Credit)
	var grant meter.ID
	for _, g := range s.account("ada").Grants {
		if g.Live(s.clock.Now().UnixMilli()) {
			grant = g.ID
		}
	}
	_, err := s.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "ada", GrantID: grant, Credits: 200 * meter.Credit, Ref: "abuse", Reason: "abuse",
	})
	require.NoError(t, err)
	s.put(t, premium())
	s.end(t, "ada")
	s.at(t, "2027-01-10 09:01")
	s.put(t, plus)
	s.requireGiven(t, "ada", `
		200 monthly 27-01-10 09:01 to 27-02-01 00:00
		500 monthly 27-02-01 00:00 to 27-03-01 00:00`)
}

// A gateway whose clock is behind finds ended what another one ended a moment ago.
func TestASupersededGrantIsOverForAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	plus := persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(50))}
	s.put(t, plus)
	s.flush(t)
	s.at(t, "2027-01-15 09:02")
	s.put(t, premium())
	s.flush(t)
	s.at(t, "2027-01-15 09:00")
	s.put(t, plus)
	s.flush(t)
	s.at(t, "2027-01-15 09:03")
	s.issue(t)
	require.Regexp(t, `to 27-02-01 00:00`, s.given(t, "ada"), "something is in force until the cycle ends")
}

// A round of the issuer ends though accounts are due again before it is over.
func TestARoundLooksOnceAtWhatIsNotSettled(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, premium())
	s.flush(t)
	_, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	s.put(t, premium())
	s.at(t, "2027-01-10 09:30")
	reg := prometheus.NewRegistry()
	issuer := persist.NewIssuer(s.admin, persist.IssueOptions{}, reg, zerolog.Nop())
	done := make(chan error)
	go func() {
		_, err := issuer.Issue(t.Context())
		done <- err
	}()
	const hoursMax = 200 // the round that goes on and on ends, too
	for hour := 1; ; hour++ {
		select {
		case err := <-done:
			require.NoError(t, err)
			require.InDelta(t, 1, counted(t, reg, "creditgate_issuer_accounts_total", "issued"), 0)
			return
		default:
		}
		if hour <= hoursMax {
			s.clock.Set(time.Until(s.time(t, "2027-01-10 10:00").Add(time.Duration(hour) * time.Hour)))
		}
		s.query(t, `SELECT 1`) // about as long as a page takes
	}
}

// What is held while its grant ends counts as used, also where nothing was left of it to be taken back.
func TestWhatIsHeldIsNotGivenTwice(t *testing.T) {
	t.Parallel()
	h := openHouse(t, planned(planPolicy(t, 1)))
	h.startFlusher(t)
	h.clock.Set(time.Until(time.Date(2027, 1, 10, 8, 0, 0, 0, time.UTC)))
	_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: new("studio")})
	require.NoError(t, err)
	put := func(c persist.SubscriptionChange) {
		t.Helper()
		c.Account = "ada"
		state, err := h.admin.PutSubscription(t.Context(), c)
		require.NoError(t, err)
		require.True(t, state.Applied)
	}
	available := func() (sum meter.Credits) {
		d, err := h.engine.Balance(t.Context(), "ada")
		require.NoError(t, err)
		return d.Account.Available(d.NowMs)
	}
	put(persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5))})
	d, err := h.engine.Reserve(t.Context(), meter.Reserve{
		ID: h.engine.NewReservationID("ada"), Account: "ada", Amount: 50 * meter.Credit, Lease: time.Minute,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	put(persist.SubscriptionChange{Plan: "premium"})
	_, err = h.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	put(persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5))})
	require.Zero(t, available(), "all of it is held")
	put(persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(6))})
	require.Equal(t, 10*meter.Credit, available())
	h.requireNoDrift(t)
}

// lapse books what is left of grants that are over, at most so much of each.
func (s *desk) lapse(account string, most meter.Credits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.account(account).Grants {
		if g := &s.account(account).Grants[i]; g.Available > 0 && g.ExpiresMs <= s.clock.Now().UnixMilli() {
			lapsed := min(g.Available, most)
			s.book(meter.Entry{Kind: meter.KindLapse, Account: account, ID: g.ID, Amount: lapsed, Lines: []meter.Line{
				{Grant: g.ID, Lapsed: lapsed},
			}})
			g.Available -= lapsed
		}
	}
}

// What ended by itself while the ledger stood is given again when the ledger has it, however late, and as far as it has it.
func TestWhatLapsedIsWaitedForHoweverLong(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, premium())
	s.put(t, persist.SubscriptionChange{Plan: "basic", StartsAt: s.time(t, "2027-01-20 00:00")})
	s.flush(t)
	s.at(t, "2027-01-21 00:00")
	s.put(t, premium())
	for _, day := range []string{"2027-01-21 00:06", "2027-01-22 00:00", "2027-01-23 00:00"} {
		require.Equal(t, [][]any{{true}}, s.query(t, `SELECT due_at < $1 FROM creditgate.subscription_due`, s.time(t, day)))
		s.at(t, day)
		s.issue(t)
		s.lapse("ada", 10*meter.Credit)
		s.flush(t)
	}
	s.requireGiven(t, "ada", `
		19970 monthly 27-01-10 09:00 to 27-01-20 00:00 unlimited
		0.001 monthly 27-01-21 00:00 to 27-02-01 00:00 unlimited
		9.999 monthly 27-01-22 00:00 to 27-02-01 00:00 unlimited
		10 monthly 27-01-23 00:00 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	s.lapse("ada", 20000*meter.Credit)
	s.flush(t)
	s.at(t, "2027-01-24 00:00")
	s.issue(t)
	require.Contains(t, s.given(t, "ada"), "19980 monthly 27-01-24 00:00 to 27-02-01 00:00 unlimited")
	s.flush(t)
	s.requireNoDrift(t)
	require.Equal(t, [][]any{{true}}, s.query(t, `SELECT due_at > '2027-01-31' FROM creditgate.subscription_due`))
}

// What ends is taken back after what takes its place is there, by the sweeper too.
func TestSweeperEndsWhatIsInForceLast(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, twoPlus())
	s.flush(t)
	s.down = true
	s.at(t, "2027-01-15 09:00")
	require.False(t, s.put(t, premium()).Applied)
	s.down = false
	s.at(t, "2027-01-15 09:02")
	sweeper := persist.NewSweeper(s.admin, s.ledger, persist.SweepOptions{}, prometheus.NewRegistry(), zerolog.Nop())
	require.NoError(t, sweeper.Sweep(t.Context()))
	s.flush(t)
	require.Equal(t, [][]any{{true}}, s.query(t, `SELECT min(e.pseq) FILTER (WHERE e.kind = 'grant' AND g.unlimited) <
			min(e.pseq) FILTER (WHERE e.kind = 'revoke' AND g.effective_at < '2027-01-15')
		FROM creditgate.ledger_entry e JOIN creditgate.ledger_line l USING (layout, partition, pseq, idx)
		JOIN creditgate.grant_lot g ON g.id = l.grant_id`))
	s.requireNoDrift(t)
}
