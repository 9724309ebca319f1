package persist_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

func premium() persist.SubscriptionChange { return persist.SubscriptionChange{Plan: "premium"} }

func twoPlus() persist.SubscriptionChange {
	return persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(2))}
}

// use spends of what an account has in a bucket now, and brings it to Postgres.
func (s *desk) use(t *testing.T, account, bucket string, credits meter.Credits) {
	t.Helper()
	nowMs := s.clock.Now().UnixMilli()
	for _, g := range s.account(account).Grants {
		if g.Bucket == bucket && g.Live(nowMs) && g.Available >= credits {
			s.commit(account, g.ID, credits, 0, meter.Note{})
			s.flush(t)
			return
		}
	}
	require.Fail(t, "there is no such credit", "%s of %s:\n%s", credits, bucket, s.given(t, account))
}

func (s *desk) end(t *testing.T, account string) {
	t.Helper()
	_, err := s.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: account, AtOnce: true})
	require.NoError(t, err)
	s.flush(t)
}

// From a contingent to a cap, away, and there again: each comes back with what was not used of it, and nothing is
// unlimited that the plan does not say is so.
func TestBetweenLimitedAndUnlimitedWithinACycle(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	const next, capped = ` monthly 27-02-01 00:00 to 27-03-01 00:00`, ` monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`
	s.putAccount(t, "ada")
	s.put(t, twoPlus())
	s.use(t, "ada", "monthly", 5*meter.Credit)

	s.at(t, "2027-01-15 09:00")
	require.Nil(t, s.put(t, premium()).Scheduled)
	s.requireGiven(t, "ada", `
		20000 monthly 27-01-15 09:00 to 27-02-01 00:00 unlimited
		20000`+capped)
	s.flush(t)
	s.use(t, "ada", "monthly", 300*meter.Credit)

	s.at(t, "2027-01-16 09:00")
	down := s.put(t, twoPlus())
	require.Equal(t, &persist.ScheduledTerm{Plan: "plus", Slots: 2, At: s.time(t, "2027-02-01 00:00")}, down.Scheduled)
	s.requireGiven(t, "ada", `
		19700 monthly 27-01-15 09:00 to 27-02-01 00:00 unlimited
		20`+next)

	s.at(t, "2027-01-17 09:00")
	s.end(t, "ada")
	s.requireGiven(t, "ada", ``)
	s.at(t, "2027-01-18 09:00")
	s.put(t, twoPlus())
	s.requireGiven(t, "ada", `
		15 monthly 27-01-18 09:00 to 27-02-01 00:00
		20`+next)
	s.flush(t)
	s.use(t, "ada", "monthly", 15*meter.Credit)

	s.at(t, "2027-01-19 09:00")
	s.put(t, premium())
	s.flush(t)
	s.use(t, "ada", "monthly", 700*meter.Credit)
	s.requireGiven(t, "ada", `
		19000 monthly 27-01-19 09:00 to 27-02-01 00:00 unlimited
		20000`+capped)
	s.at(t, "2027-01-20 09:00")
	s.end(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5))})
	s.requireGiven(t, "ada", `
		30 monthly 27-01-20 09:00 to 27-02-01 00:00
		50`+next)
	s.flush(t)
	require.Equal(t, [][]any{{int64(1), int64(15)}, {int64(1), int64(19000)}, {int64(1), int64(19700)}}, s.query(t, `
		SELECT count(*), sum(s.revoked)::bigint / 1000 FROM creditgate.cycle_grant c JOIN creditgate.grant_state s USING (grant_id)
		WHERE c.superseded AND s.spent > 0 AND s.revoked > 0 GROUP BY s.revoked ORDER BY 2`))
	s.requireNoDrift(t)
}

// Whatever the numbers: a cap is more than any contingent.
func TestACapIsMoreThanAnyContingent(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	plus := persist.SubscriptionChange{Account: "ada", Plan: "plus", Slots: new(uint32(5000))}
	s.putAccount(t, "ada")
	s.put(t, plus)
	s.at(t, "2027-01-15 09:00")
	require.Nil(t, s.put(t, premium()).Scheduled)
	s.requireGiven(t, "ada", `
		20000 monthly 27-01-15 09:00 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	s.flush(t)
	s.use(t, "ada", "monthly", 20000*meter.Credit)
	caps := func() []persist.FairUseCap {
		st, err := s.store.Statement(t.Context(), "ada", nil, s.clock.Now())
		require.NoError(t, err)
		return st.Caps
	}
	require.Len(t, caps(), 1)
	require.NotNil(t, s.put(t, plus).Scheduled)
	s.requireGiven(t, "ada", `50000 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	require.Len(t, caps(), 1)
	s.end(t, "ada")
	require.Empty(t, caps(), "it ended, used up as it was")
}

// A change that is planned for the middle of a cycle ends what it replaces at its moment, with nobody there; one that is
// given up does not.
func TestPlannedChangeBetweenLimitedAndUnlimited(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, premium())
	later := twoPlus()
	later.StartsAt = s.time(t, "2027-01-20 00:00")
	s.put(t, later)
	s.requireGiven(t, "ada", `
		20000 monthly 27-01-10 09:00 to 27-01-20 00:00 unlimited
		20 monthly 27-01-20 00:00 to 27-02-01 00:00
		20 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	s.put(t, premium())
	s.requireGiven(t, "ada", `
		20000 monthly 27-01-10 09:00 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	s.put(t, later)
	s.flush(t)
	s.use(t, "ada", "monthly", 300*meter.Credit)
	s.at(t, "2027-01-20 00:30")
	s.put(t, premium()) // before anybody booked what lapsed: only what stops the rest
	s.requireGiven(t, "ada", `
		19700 monthly 27-01-10 09:00 to 27-01-20 00:00 unlimited
		0.001 monthly 27-01-20 00:30 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	s.lapse("ada", 20000*meter.Credit)
	s.flush(t)
	s.at(t, "2027-01-21 00:01")
	s.issue(t)
	s.requireGiven(t, "ada", `
		0.001 monthly 27-01-20 00:30 to 27-02-01 00:00 unlimited
		19699.999 monthly 27-01-21 00:01 to 27-02-01 00:00 unlimited
		20000 monthly 27-02-01 00:00 to 27-03-01 00:00 unlimited`)
	s.flush(t)
	s.requireNoDrift(t)
}

// The plan itself is made limited, and unlimited again: what is in force follows at once.
func TestReloadBetweenLimitedAndUnlimited(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, premium())
	s.use(t, "ada", "monthly", 300*meter.Credit)
	reload := func(day string, amount policy.Amount, unlimited bool) {
		t.Helper()
		s.at(t, day)
		p, err := policy.Parse("studio.yaml", []byte("name: studio\nbuckets: [promo, monthly, purchased]\n"+
			"operations:\n  apply: {match: POST /apply"+day[9:10]+", credits: 0}\n"))
		require.NoError(t, err)
		q := planPolicy(t, 1)
		p.Plans, p.Cycle, p.Location = q.Plans, q.Cycle, q.Location
		p.Plans[0].Contingents[0] = policy.Contingent{Bucket: "monthly", Rank: 1, Amount: amount, Unlimited: unlimited}
		s.policies.Replace(map[string]*policy.Policy{"studio": p})
		s.issue(t)
		s.flush(t)
	}
	reload("2027-01-15 09:00", policy.FixedAmount(400*meter.Credit), false)
	s.requireGiven(t, "ada", `
		400 monthly 27-01-15 09:00 to 27-02-01 00:00
		400 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	s.use(t, "ada", "monthly", 40*meter.Credit)
	reload("2027-01-16 09:00", policy.FixedAmount(500*meter.Credit), false)
	s.requireGiven(t, "ada", `
		360 monthly 27-01-15 09:00 to 27-02-01 00:00
		500 monthly 27-02-01 00:00 to 27-03-01 00:00`)
	reload("2027-01-17 09:00", policy.FixedAmount(30000*meter.Credit), true)
	require.Contains(t, s.given(t, "ada"), "29700 monthly 27-01-17 09:00 to 27-02-01 00:00")
	require.NotContains(t, s.given(t, "ada"), "360")
	s.requireNoDrift(t)
}

// A plan's amount is changed within a cycle, and the slots after it: what counts is what the cycle gave, not what it
// would have given.
func TestWhatCountsIsWhatWasGranted(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(5))})
	p := planPolicy(t, 1)
	p.Plans[1].Contingents[0].Amount = policy.PerSlot(12 * meter.Credit)
	s.policies.Replace(map[string]*policy.Policy{"studio": p})
	s.at(t, "2027-01-15 09:00")
	s.put(t, persist.SubscriptionChange{Plan: "plus", Slots: new(uint32(8))})
	s.requireGiven(t, "ada", `
		50 monthly 27-01-10 09:00 to 27-02-01 00:00
		46 monthly 27-01-15 09:00 to 27-02-01 00:00
		96 monthly 27-02-01 00:00 to 27-03-01 00:00`)
}

// What is held while a cap ends can still be charged; what comes back of it is over with it. What was bought can be spent
// at once, though the cap was used up and stopped it.
func TestWhatACapStoppedIsFreeWhenItEnds(t *testing.T) {
	t.Parallel()
	h := openHouse(t, planned(planPolicy(t, 1)))
	h.startFlusher(t)
	h.clock.Set(time.Until(time.Date(2027, 1, 10, 8, 0, 0, 0, time.UTC)))
	_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: new("studio")})
	require.NoError(t, err)
	change := premium()
	change.Account = "ada"
	state, err := h.admin.PutSubscription(t.Context(), change)
	require.NoError(t, err)
	require.True(t, state.Applied)
	_, err = h.admin.Grant(t.Context(), persist.NewGrant{
		Account: "ada", Bucket: "purchased", Rank: 2, Credits: 50 * meter.Credit, Ref: "pack-1",
	})
	require.NoError(t, err)
	reserve := func(amount meter.Credits) meter.Decision {
		d, err := h.engine.Reserve(t.Context(), meter.Reserve{
			ID: h.engine.NewReservationID("ada"), Account: "ada", Amount: amount, Lease: time.Minute,
		})
		require.NoError(t, err)
		return d
	}
	held := reserve(19990 * meter.Credit)
	require.Equal(t, meter.CodeOK, held.Code)
	require.Equal(t, meter.CodeInsufficient, reserve(20*meter.Credit).Code, "the cap stops what was bought")

	_, err = h.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	for _, g := range d.Account.Grants {
		require.False(t, g.Unlimited && g.Live(d.NowMs), "nothing is unlimited any more: %+v", g)
	}
	require.Equal(t, meter.CodeOK, reserve(20*meter.Credit).Code)
	charged, err := h.engine.Commit(t.Context(), meter.Settle{
		ID: held.Reservation.ID, Account: "ada", Amount: 19900 * meter.Credit, Units: 1,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, charged.Code)
	require.NoError(t, h.engine.SweepNow(t.Context()))
	h.requireNoDrift(t)
	require.Equal(t, [][]any{{int64(19900), int64(90), int64(10), int64(0)}}, h.query(t, `
		SELECT s.spent::bigint / 1000, s.lapsed::bigint / 1000, s.revoked::bigint / 1000, s.debt::bigint / 1000
		FROM creditgate.cycle_grant c JOIN creditgate.grant_state s USING (grant_id) WHERE s.spent > 0`))

	state, err = h.admin.PutSubscription(t.Context(), change) // there again: the rest of the cap
	require.NoError(t, err)
	require.True(t, state.Applied)
	require.Equal(t, [][]any{{int64(100)}}, h.query(t, `
		SELECT s.credits::bigint / 1000 FROM creditgate.cycle_grant c JOIN creditgate.grant_state s USING (grant_id)
		WHERE NOT c.superseded AND c.key LIKE '% 1'`))
}
