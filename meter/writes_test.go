package meter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

func TestRevocationStaysCountable(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	grant := r.grant(50)
	q := r.request(r.baseMs, 0)
	q.Amount = 150 // of both grants, so that neither is forgotten
	r.reserve(q)
	revoke := func(amount meter.Credits) meter.Revocation {
		return meter.Revocation{ID: r.id(r.baseMs), Account: payer, Grant: grant, Amount: amount}
	}
	r.ok(r.engines[0].Revoke(r.ctx, revoke(meter.MaxCredits-200)))
	_, err := r.engines[0].Revoke(r.ctx, revoke(51)) // beside what is held
	require.ErrorContains(t, err, "counted exactly")
	r.ok(r.engines[0].Revoke(r.ctx, revoke(50)))
	_, err = r.engines[0].Grant(r.ctx, meter.GrantChange{Account: payer, Grant: meter.Grant{
		ID: r.id(r.baseMs), Bucket: "promo", Available: 1, ExpiresMs: meter.Never,
	}})
	require.ErrorContains(t, err, "counted exactly")
	r.requireBalance(0, 150)
}

// A slot that the same call writes to is not old, wherever in the call the drop stands.
func TestDropMindsItsOwnCall(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	e := r.engines[0]
	first, second, third := r.request(r.baseMs, 1), r.request(r.baseMs, 2), r.request(r.baseMs, 3)
	r.reserve(first)
	r.ok(e.Commit(r.ctx, full(first)))
	slot := r.layout.Keys(first.ID.Partition).Done(r.baseMs)
	r.flush(1_000, true, false)
	r.pass(20 * time.Minute)
	d, err := e.Fly(meter.ReleaseOp(bare(second)), e.DropOp(first.ID.Partition, slot))
	require.NoError(t, err)
	require.Equal(t, []meter.Code{meter.CodeOK, meter.CodeNotDue}, []meter.Code{d[0].Code, d[1].Code})
	require.Equal(t, meter.Released, r.ok(e.Reservation(r.ctx, second.ID)).Reservation.State)

	r.pass(20 * time.Minute)
	d, err = e.Fly(e.DropOp(first.ID.Partition, slot), meter.CommitOp(full(third), false))
	require.NoError(t, err)
	require.Equal(t, meter.Late, d[1].Reservation.State)
	require.Equal(t, int64(1), r.client.Exists(r.ctx, slot).Val(), "Postgres does not have the late commit yet")

	day := r.layout.Keys(first.ID.Partition).KeyDay(r.baseMs)
	r.flush(1_000, true, false)
	r.pass(48 * time.Hour)
	d, err = e.Fly(meter.CommitOp(full(r.request(r.baseMs, 4)), false), e.DropOp(first.ID.Partition, day))
	require.NoError(t, err)
	require.Equal(t, []meter.Code{meter.CodeOK, meter.CodeNotDue}, []meter.Code{d[0].Code, d[1].Code})
}

// A write that is refused says why, and one that cannot even be packed leaves nothing behind.
func TestWriteThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	for planted, want := range map[string]struct {
		mutate func(*meter.Engine)
		code   meter.Code
	}{
		"planted":               {func(e *meter.Engine) { e.Mutate("= a.key, pack_account(a)", "= a.key, error('planted')") }, meter.CodeError},
		"Unknown Redis command": {func(e *meter.Engine) { e.Mutate("'XADD'", "'XBAD'") }, meter.CodeRegressed},
		"half-way":              {func(e *meter.Engine) { e.Mutate("sec.wrote = true", "sec.wrote = true error('half-way', 0)") }, meter.CodeTorn},
		"at the end": {
			func(e *meter.Engine) { e.Mutate("pcall(call, 'MSET'", "pcall(function() error('at the end', 0) end") }, meter.CodeTorn,
		},
	} {
		w := newWorld(t.Context(), t, redisd.Test(t), 1, want.mutate)
		t.Cleanup(w.close)
		w.book.AddAccount(payer)
		require.NoError(t, w.client.Set(t.Context(), w.layout.Keys(0).Account(payer),
			meter.AppendAccount(nil, meter.Account{}), 0).Err())
		o := meter.GrantOp(0, meter.GrantChange{Account: payer, Grant: meter.Grant{
			ID: meter.NewID(time.Now()), Bucket: "promo", Available: 1, ExpiresMs: time.Now().Add(48 * time.Hour).UnixMilli(),
		}})
		_, err := w.engines[0].Fly(o)
		require.NoError(t, err)
		require.Equal(t, want.code.String(), o.Code().String(), planted)
		require.Contains(t, o.Body(), planted)
		keys := w.layout.Keys(0)
		if want.code != meter.CodeTorn {
			require.Zero(t, w.client.Exists(t.Context(), keys.Ledger(), keys.Open()).Val(), planted)
			head, err := w.engines[0].Ledger().Head(t.Context(), 0)
			require.NoError(t, err)
			require.Zero(t, head.Pseq)
		}
	}
}

// A partition that lost its meta only is not empty: a person must look.
func TestRebuildRefusesLeftovers(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	r.reserve(r.request(r.baseMs, 0))
	r.flush(1_000, true, false)
	keys := r.layout.Keys(r.layout.PartitionOf(payer))
	require.NoError(t, r.client.Del(r.ctx, keys.Meta(), keys.Ledger()).Err())
	r.nowMs.Store(0) // what held the clock ahead is gone
	require.ErrorContains(t, r.engines[0].OpenNow(r.ctx), "but not its head")
	require.NoError(t, r.client.Del(r.ctx, keys.Open(), keys.Slots(), keys.Account(payer)).Err())
	require.NoError(t, r.engines[0].OpenNow(r.ctx))

	// What an attempt before has loaded is no leftover.
	require.NoError(t, metertest.EditMeta(r.ctx, r.client, keys, func(m *meter.Meta) { m.Loading = true }))
	require.NoError(t, r.client.HSet(r.ctx, keys.Slots(), keys.KeyDay(r.baseMs), r.baseMs).Err())
	require.NoError(t, r.engines[0].OpenNow(r.ctx))
}

// A position is an epoch and a number; the number alone says nothing about another epoch.
func TestTrimTakesNothingUnflushed(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	r.grant(1)
	r.grant(1)
	p := r.layout.PartitionOf(payer)
	state := r.layout.Keys(p).Ledger()
	trim := func(at, trim meter.Position) int64 {
		r.ok(r.engines[0].RunOp(r.ctx, meter.FlushedOp(p, r.id(r.baseMs), at, trim)))
		return r.client.XLen(r.ctx, state).Val()
	}
	require.Equal(t, int64(3), trim(meter.Position{Epoch: 1, Pseq: 2}, meter.Position{Epoch: 2, Pseq: 1}))
	require.Equal(t, int64(3), trim(meter.Position{Epoch: 1, Pseq: 2}, meter.Position{Epoch: 1, Pseq: 3}))
	require.Equal(t, int64(2), trim(meter.Position{Epoch: 1, Pseq: 2}, meter.Position{Epoch: 1, Pseq: 2}))
}

// A grant is found by its id, wherever in an account's packed value the same bytes stand by chance: 16 zero bytes are
// what a grant that holds and owes nothing has in its middle.
func TestGrantIsFoundOnlyWhereOneBegins(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	r.grant(50)
	before, err := r.engines[0].Balance(r.ctx, payer)
	require.NoError(t, err)
	p := r.layout.PartitionOf(payer)
	d, err := r.engines[0].Fly(meter.MoveExpiryOp(p, meter.ExpiryMove{ID: r.id(r.baseMs), Account: payer, ExpiresMs: meter.Never}))
	require.NoError(t, err)
	require.Equal(t, meter.CodeGone.String(), d[0].Code.String())
	after, err := r.engines[0].Balance(r.ctx, payer)
	require.NoError(t, err)
	require.Equal(t, before.Account.Grants, after.Account.Grants)
}
