package persist_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// pastDatabase is a copy of a database, which may take its place later.
type pastDatabase struct{ url, name, copy string }

func copyDatabase(t *testing.T, url string) *pastDatabase {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	p := &pastDatabase{url: persisttest.AsOwner(t, url), name: config.Database, copy: config.Database + "_copy"}
	p.run(t, p.away(), fmt.Sprintf(`CREATE DATABASE %s TEMPLATE %s`, p.copy, p.name),
		fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS true`, p.name))
	return p
}

// restore puts the copy in the place of the database, as after a point-in-time restore.
func (p *pastDatabase) restore(t *testing.T) {
	t.Helper()
	p.run(t, p.away(), fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, p.name),
		fmt.Sprintf(`ALTER DATABASE %s RENAME TO %s`, p.copy, p.name))
}

func (p *pastDatabase) away() string {
	return fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS false`, p.name)
}

func (p *pastDatabase) run(t *testing.T, statements ...string) {
	t.Helper()
	config, err := pgx.ParseConfig(p.url)
	require.NoError(t, err)
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	for n, sql := range statements {
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
		if n > 0 {
			continue
		}
		require.Eventually(t, func() bool {
			var left int
			err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = $1 AND pid <> pg_backend_pid()`, p.name).Scan(&left)
			return err == nil && left == 0
		}, 20*time.Second, 10*time.Millisecond, "connections must end")
	}
}

func (h *house) awaitFlushed(t *testing.T) {
	t.Helper()
	head, err := h.engine.Ledger().Head(t.Context(), 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		at, err := h.store.Cursor(context.Background(), 0)
		return err == nil && at.Pseq >= head.Pseq
	}, 30*time.Second, 10*time.Millisecond, "the flusher did not reach %s", head)
}

// reconnect makes sure that connections from before a restart are not used.
func (h *house) reconnect(t *testing.T) {
	t.Helper()
	h.store.Pool().Reset()
	require.Eventually(t, func() bool {
		_, _, err := h.store.Account(context.Background(), "bob")
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

// awaitQuarantined waits until so many accounts are quarantined, and returns them.
func (h *house) awaitQuarantined(t *testing.T, accounts int) (held []persist.QuarantinedAccount) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		held, err = h.store.Quarantine(context.Background())
		return err == nil && len(held) == accounts
	}, 30*time.Second, 10*time.Millisecond, "%d accounts must be quarantined", accounts)
	return held
}

// Postgres is restored to an older copy, and Redis has what came after it. One account got credit in between.
func TestRestoredPostgresQuarantinesWhatItLost(t *testing.T) {
	t.Parallel()
	_, url := persisttest.Private(t)
	h := openHouseOn(t, url, policy.NewCatalog(map[string]*policy.Policy{
		"studio": {Name: "studio", Location: time.UTC, Buckets: []string{"promo", "monthly", "purchased"}},
	}))
	h.startFlusher(t)
	h.addAccount(t, "ada", 10)
	h.addAccount(t, "bob", 10)
	h.charge(t, "ada", 1, 1)
	h.charge(t, "bob", 1, 1)
	h.awaitFlushed(t)
	ends := time.Now().AddDate(1, 0, 0).UTC().Truncate(time.Millisecond)
	past := copyDatabase(t, url)
	h.reconnect(t)
	bought, err := h.admin.Grant(t.Context(), persist.NewGrant{
		Account: "ada", Bucket: "purchased", Rank: 2, Credits: 50 * meter.Credit, Ref: "order-1",
		Price: &persist.Price{Minor: 4500, Currency: "EUR"},
	})
	require.NoError(t, err)
	h.charge(t, "ada", 20, 20)
	h.charge(t, "bob", 2, 2)
	welcome := h.addAccount(t, "eve", 5)
	h.charge(t, "eve", 1, 1)
	moved, err := h.admin.MoveExpiry(t.Context(), persist.ExpiryChange{
		Account: "ada", GrantID: bought.GrantID, ExpiresAt: ends, Ref: "longer",
	})
	require.NoError(t, err)
	require.True(t, moved.Applied)
	_, err = h.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "ada", GrantID: bought.GrantID, Credits: 2 * meter.Credit, Ref: "dispute", Reason: "chargeback",
	})
	require.NoError(t, err)
	h.awaitFlushed(t)
	past.restore(t)
	h.reconnect(t)

	h.awaitFlushed(t)
	held := h.awaitQuarantined(t, 2)
	require.Equal(t, "ada", held[0].Account)
	lost := held[0].Lost
	require.Len(t, lost, 3)
	require.Equal(t, bought.GrantID, lost[0].ID)
	require.Equal(t, 50*meter.Credit, lost[0].Credits)
	require.Equal(t, []string{"grant", "adjust", "revoke"}, []string{lost[0].Kind, lost[1].Kind, lost[2].Kind})
	require.Equal(t, "eve", held[1].Account)
	require.False(t, held[1].Known)
	_, err = h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "eve", Product: new("studio")})
	require.NoError(t, err)
	_, err = h.admin.BookLost(t.Context(), persist.LostBooking{
		Account: "eve", ID: welcome, Ref: "eve-welcome", Bucket: "promo", Reason: "restore of Postgres", Actor: "grace",
	})
	require.NoError(t, err)
	h.awaitQuarantined(t, 1)
	last := h.charge(t, "ada", 3, 3) // Redis goes on
	h.charge(t, "bob", 3, 3)
	h.awaitFlushed(t)
	require.Equal(t, [][]any{{int64(4)}}, h.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'bob'`))
	report, err := persist.Verify(t.Context(), h.store, h.engine.Balance)
	require.NoError(t, err)
	require.Len(t, report.Drifts, 3, printed(t, report))
	require.Contains(t, printed(t, report), "creditgate ledger book ada "+bought.GrantID.String())
	require.Eventually(t, func() bool {
		_, _, err = h.store.Account(t.Context(), "ada")
		return errors.Is(err, persist.ErrQuarantined)
	}, 10*time.Second, 10*time.Millisecond, "what Postgres has of it must not be loaded")
	_, _, settled, err := h.store.Outcome(t.Context(), last)
	require.False(t, settled)
	require.ErrorIs(t, err, persist.ErrQuarantined, "that it was not settled is not known")
	gift, err := h.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "sorry"})
	require.NoError(t, err)
	require.False(t, gift.Applied, "its entry would not show in Postgres")

	for _, early := range lost[1:] { // their grant is not there yet
		_, err = h.admin.BookLost(t.Context(), persist.LostBooking{
			Account: "ada", ID: early.ID, Ref: early.Kind, Reason: "restore of Postgres", Actor: "grace",
		})
		require.ErrorIs(t, err, persist.ErrNoGrant)
	}
	h.bookLost(t, persist.LostBooking{
		Account: "ada", ID: bought.GrantID, Ref: "order-1", Bucket: "purchased",
		Price: &persist.Price{Minor: 4500, Currency: "EUR"}, Reason: "restore of Postgres", Actor: "grace",
	})
	for n, expires := range []time.Time{ends, {}} {
		_, err = h.admin.BookLost(t.Context(), persist.LostBooking{
			Account: "ada", ID: lost[n+1].ID, Ref: lost[n+1].Kind, ExpiresAt: expires, Reason: "restore of Postgres", Actor: "grace",
		})
		require.NoError(t, err)
	}
	h.awaitQuarantined(t, 0)
	state, err := h.admin.GrantState(t.Context(), "ada", bought.GrantID)
	require.NoError(t, err)
	require.Equal(t, ends, state.ExpiresAt)
	require.NoError(t, h.sweeper().Sweep(t.Context()))
	h.awaitFlushed(t)
	h.requireNoDrift(t)
	d, err := h.engine.Balance(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, 35*meter.Credit, d.Account.Available(d.NowMs), "10 + 50 + 1 - 1 - 20 - 2 - 3")
	_, err = h.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "plus", Ref: "order-1"})
	require.ErrorIs(t, err, persist.ErrRefConflict, "the shop's repeat must not grant twice")
	_, err = h.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "purchased", Credits: 50 * meter.Credit, Ref: "order-1"})
	require.ErrorIs(t, err, persist.ErrRefConflict)
}

// bookLost books a lost grant, after what must be refused.
func (h *house) bookLost(t *testing.T, l persist.LostBooking) {
	t.Helper()
	for name, change := range map[string]func(l *persist.LostBooking){
		"another bucket": func(l *persist.LostBooking) { l.Bucket = "gold" },
		"no actor":       func(l *persist.LostBooking) { l.Actor = "" },
		"no reason":      func(l *persist.LostBooking) { l.Reason = " " },
		"no reference":   func(l *persist.LostBooking) { l.Ref = "" },
		"over before it begins": func(l *persist.LostBooking) {
			l.ExpiresAt = time.UnixMilli(startMs).AddDate(-1, 0, 0)
		},
	} {
		wrong := l
		change(&wrong)
		_, err := h.admin.BookLost(t.Context(), wrong)
		require.ErrorIs(t, err, persist.ErrInvalid, name)
	}
	wrong := l
	wrong.ID = meter.NewID(time.Now())
	_, err := h.admin.BookLost(t.Context(), wrong)
	require.ErrorIs(t, err, persist.ErrNoGrant)
	wrong = l
	wrong.Ref = "ada-welcome"
	_, err = h.admin.BookLost(t.Context(), wrong)
	require.ErrorIs(t, err, persist.ErrRefConflict)

	for repeated := range 3 {
		out, err := h.admin.BookLost(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, repeated > 0, out.Repeated)
	}
	wrong = l
	wrong.Bucket = "promo"
	_, err = h.admin.BookLost(t.Context(), wrong)
	require.ErrorIs(t, err, persist.ErrRefConflict)
	require.Equal(t, [][]any{{"grace", "restore of Postgres"}}, h.query(t,
		`SELECT actor, reason FROM creditgate.booked_change WHERE id = $1`, [16]byte(l.ID)))
}

// A grant that a subscription was given and Postgres lost is not given once more.
func TestLostGrantOfACycleIsNotIssuedAgain(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	s.put(t, persist.SubscriptionChange{Account: "ada", Plan: "plus", Slots: new(uint32(2))})
	s.flush(t)
	s.at(t, "2027-02-01 00:00")
	require.NotZero(t, s.issue(t))
	given := s.query(t, `SELECT key, revision, grant_id FROM creditgate.cycle_grant ORDER BY key`)
	s.query(t, `CREATE TABLE public.lost AS SELECT grant_id FROM creditgate.cycle_grant
		WHERE key LIKE 'monthly%' ORDER BY expires_at DESC LIMIT 1`)
	for _, table := range []string{"cycle_grant", "grant_state"} {
		s.query(t, `DELETE FROM creditgate.`+table+` WHERE grant_id IN (SELECT grant_id FROM public.lost)`)
	}
	s.query(t, `DELETE FROM creditgate.grant_lot WHERE id IN (SELECT grant_id FROM public.lost)`)
	s.query(t, `UPDATE creditgate.subscription_due SET due_at = '2027-02-01'`)

	s.flush(t)
	held, err := s.store.Quarantine(t.Context())
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Len(t, held[0].Lost, 1)
	require.Zero(t, s.issue(t), "what an account was given is not known while it is quarantined")
	_, err = s.admin.BookLost(t.Context(), persist.LostBooking{
		Account: "ada", ID: held[0].Lost[0].ID, Ref: "cycle-of-march", Bucket: "monthly", Reason: "restore", Actor: "grace",
	})
	require.NoError(t, err)
	stop := s.startFlusher(t, persist.FlushOptions{})
	require.Eventually(t, func() bool {
		held, err := s.store.Quarantine(context.Background())
		return err == nil && len(held) == 0
	}, 20*time.Second, 10*time.Millisecond)
	stop()
	require.Zero(t, s.issue(t), "it was given")
	require.Equal(t, given, s.query(t, `SELECT key, revision, grant_id FROM creditgate.cycle_grant ORDER BY key`))
	s.requireNoDrift(t)
}
