package meter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// rules is a world with one account, for rules that deserve a test of their own beside the model's: each was broken
// once.
type rules struct {
	*world
	t      *testing.T
	baseMs int64
}

const payer = "alpha"

func newRules(t *testing.T) *rules {
	t.Helper()
	r := &rules{world: newWorld(t.Context(), t, redisd.Test(t), 2), t: t, baseMs: time.Now().UnixMilli()}
	t.Cleanup(r.close)
	r.book.AddAccount(payer)
	r.grant(100)
	return r
}

func (r *rules) pass(d time.Duration) {
	for _, m := range r.models {
		m.NowMs += d.Milliseconds()
	}
	r.setClock()
}

func (r *rules) grant(amount meter.Credits) meter.ID {
	r.t.Helper()
	g := meter.Grant{ID: r.id(r.baseMs), Bucket: "monthly", Available: amount, ExpiresMs: meter.Never, CreatedMs: r.baseMs}
	r.book.AddLot(g)
	at, err := r.book.Cursor(r.ctx, r.layout.PartitionOf(payer))
	require.NoError(r.t, err)
	r.ok(r.engines[0].Grant(r.ctx, meter.GrantChange{Account: payer, Grant: g, CheckedPseq: at.Pseq}))
	return g.ID
}

func (r *rules) ok(d meter.Decision, err error) meter.Decision {
	r.t.Helper()
	return r.told(meter.CodeOK)(d, err)
}

func (r *rules) told(want meter.Code) func(meter.Decision, error) meter.Decision {
	r.t.Helper()
	return func(d meter.Decision, err error) meter.Decision {
		r.t.Helper()
		require.NoError(r.t, err)
		require.Equal(r.t, want, d.Code)
		return d
	}
}

// request is a reserve of 10 under an id created at createdMs, with an Idempotency-Key unless key is 0.
func (r *rules) request(createdMs int64, key byte) meter.Reserve {
	q := meter.Reserve{
		ID: r.layout.NewReservationID(r.id(createdMs), payer), Account: payer, Amount: 10, Lease: 2 * time.Second,
		Note: meter.Note{Operation: "apply"},
	}
	if key != 0 {
		q.Note.Key = &meter.IdempotencyKey{Hash: meter.ID{key}}
	}
	return q
}

func (r *rules) reserve(q meter.Reserve) meter.Decision {
	r.t.Helper()
	return r.ok(r.engines[0].Reserve(r.ctx, q))
}

// bare is a commit by somebody who kept nothing but the id, such as the control plane.
func bare(q meter.Reserve) meter.Settle {
	return meter.Settle{ID: q.ID, Account: q.Account, Amount: q.Amount}
}

// full is a commit as the gateway's journal keeps it.
func full(q meter.Reserve) meter.Settle {
	return meter.Settle{ID: q.ID, Account: q.Account, Amount: q.Amount, Reserved: q.Amount, Note: q.Note}
}

func (r *rules) expire(q meter.Reserve) {
	r.t.Helper()
	r.pass(q.Lease)
	r.ok(r.engines[0].RunOp(r.ctx, meter.ExpireOp(q.ID, q.Account)))
}

// forget drops the outcome slot of q once everything in it is flushed.
func (r *rules) forget(q meter.Reserve) {
	r.t.Helper()
	r.flush(1_000, true, false)
	r.pass(20 * time.Minute)
	slot := r.layout.Keys(q.ID.Partition).Done(q.ID.ID.CreatedMs())
	r.ok(r.engines[0].RunOp(r.ctx, r.engines[0].DropOp(q.ID.Partition, slot)))
}

func (r *rules) requireBalance(available, held meter.Credits) {
	r.t.Helper()
	d := r.ok(r.engines[1].Balance(r.ctx, payer))
	require.Equal(r.t, [2]meter.Credits{available, held}, [2]meter.Credits{d.Account.Available(d.NowMs), d.Account.Held()})
}

func TestCommitByIDAloneStillChargesTheKey(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	first, second := r.request(r.baseMs, 1), r.request(r.baseMs, 1)
	r.reserve(first)
	r.ok(r.engines[0].Commit(r.ctx, bare(first)))
	d := r.told(meter.CodeKeyReplay)(r.engines[0].Reserve(r.ctx, second))
	require.Equal(t, first.ID, d.Reservation.ID)
	r.requireBalance(90, 0)
}

func TestLateCommitByIDAloneMindsTheKey(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	first, second := r.request(r.baseMs, 1), r.request(r.baseMs, 1)
	r.reserve(first)
	r.expire(first)
	r.reserve(second)
	r.ok(r.engines[0].Commit(r.ctx, full(second)))
	d := r.ok(r.engines[0].Commit(r.ctx, bare(first)))
	require.Equal(t, meter.Uncollected, d.Reservation.State)
	r.requireBalance(90, 0)
}

// A key's attempts may lie in two days, and the newer day's may be the free one.
func TestKeyIsChargedOnceAcrossMidnight(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	yesterday := r.baseMs - 24*time.Hour.Milliseconds()
	first, second, third := r.request(yesterday, 1), r.request(r.baseMs, 1), r.request(r.baseMs, 1)
	r.reserve(first)
	r.expire(first)
	r.reserve(second)
	r.ok(r.engines[0].Release(r.ctx, bare(second)))
	d := r.ok(r.engines[0].Commit(r.ctx, full(first)))
	require.Equal(t, meter.Late, d.Reservation.State)
	d = r.told(meter.CodeKeyReplay)(r.engines[0].Reserve(r.ctx, third))
	require.Equal(t, first.ID, d.Reservation.ID)
}

// A commit may come when Redis has forgotten even the expiry. Postgres has it, with the note that the request was
// reserved under, and the key in it.
func TestForgottenExpiryIsBookedUnderItsOwnNote(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	q := r.request(r.baseMs, 1)
	r.reserve(q)
	r.expire(q)
	r.forget(q)
	s := bare(q)
	s.Reserved = q.Amount
	for range 2 {
		d := r.ok(r.engines[0].Commit(r.ctx, s))
		require.Equal(t, meter.Late, d.Reservation.State)
		require.Equal(t, q.Amount, d.Reservation.Charged)
		r.requireBalance(90, 0)
	}
	entries := r.entries()
	require.Equal(t, meter.KindLate, entries[len(entries)-1].Kind)
	require.Equal(t, "apply", entries[len(entries)-1].Note.Operation)
	r.told(meter.CodeKeyReplay)(r.engines[0].Reserve(r.ctx, r.request(r.baseMs+3_600_000, 1)))
}

func (r *rules) entries() []meter.Entry {
	r.t.Helper()
	s, err := metertest.Read(r.ctx, r.client, r.layout, r.layout.PartitionOf(payer))
	require.NoError(r.t, err)
	require.NoError(r.t, metertest.Check(s))
	return s.Entries()
}

// Releasing what was charged is a conflict, also when only Postgres remembers the charge.
func TestReleaseOfTheForgotten(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	charged, expired, never := r.request(r.baseMs, 0), r.request(r.baseMs, 0), r.request(r.baseMs, 0)
	r.reserve(charged)
	r.ok(r.engines[0].Commit(r.ctx, full(charged)))
	r.reserve(expired)
	r.expire(expired)
	r.forget(charged)
	d := r.told(meter.CodeConflict)(r.engines[0].Release(r.ctx, bare(charged)))
	require.Equal(t, meter.Committed, d.Reservation.State)
	d = r.ok(r.engines[0].Release(r.ctx, bare(expired)))
	require.Equal(t, meter.Expired, d.Reservation.State)
	d = r.ok(r.engines[0].Release(r.ctx, bare(never)))
	require.Equal(t, meter.Released, d.Reservation.State)
	r.told(meter.CodeStale)(r.engines[0].Reserve(r.ctx, never))
}

// An account is busy while 64 changes wait for Postgres, and not a moment longer.
func TestBusyEndsWithTheFlush(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	grant := r.grant(1)
	move := func() meter.ExpiryMove {
		return meter.ExpiryMove{ID: r.id(r.baseMs), Account: payer, Grant: grant, ExpiresMs: meter.Never}
	}
	for range 62 { // beside two grants
		r.ok(r.engines[0].MoveExpiry(r.ctx, move()))
	}
	r.told(meter.CodeBusy)(r.engines[0].MoveExpiry(r.ctx, move()))
	r.told(meter.CodeBusy)(r.engines[0].Grant(r.ctx, meter.GrantChange{
		Account: payer, Grant: meter.Grant{ID: r.id(r.baseMs), Bucket: "promo", Available: 1, ExpiresMs: meter.Never},
	}))
	r.flush(1_000, true, false)
	r.ok(r.engines[0].MoveExpiry(r.ctx, move()))
	late := move()
	r.told(meter.CodeRecheck)(r.engines[0].MoveExpiry(r.ctx, late)) // 64 ids were forgotten: was this one of them?
	late.CheckedPseq = 65
	r.ok(r.engines[0].MoveExpiry(r.ctx, late))
}

func TestGrantsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	for range meter.GrantsMax - 1 {
		r.grant(1)
		r.flush(1_000, true, false)
	}
	g := meter.GrantChange{Account: payer, CheckedPseq: meter.GrantsMax, Grant: meter.Grant{
		ID: r.id(r.baseMs), Bucket: "promo", Rank: 9, Available: 1, ExpiresMs: meter.Never,
	}}
	r.book.AddLot(g.Grant)
	r.told(meter.CodeTooManyGrants)(r.engines[0].Grant(r.ctx, g))
	q := r.request(r.baseMs, 0)
	q.Amount = 100 // the whole of the first grant
	r.reserve(q)
	r.told(meter.CodeTooManyGrants)(r.engines[0].Grant(r.ctx, g))
	r.ok(r.engines[0].Commit(r.ctx, full(q)))
	r.ok(r.engines[0].Grant(r.ctx, g))
}

// A used-up cap that is over takes no room, although nothing was written to its account since it ended.
func TestACapThatIsOverTakesNoRoom(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	change := func(rank uint8, amount meter.Credits, expires int64) meter.GrantChange {
		g := meter.GrantChange{Account: payer, CheckedPseq: 2 * meter.GrantsMax, Grant: meter.Grant{
			ID: r.id(r.baseMs), Bucket: "promo", Rank: rank, Available: amount, ExpiresMs: expires,
		}}
		return g
	}
	give := func(g meter.GrantChange) {
		r.book.AddLot(g.Grant)
		r.ok(r.engines[0].Grant(r.ctx, g))
		r.flush(1_000, true, false)
	}
	g := change(0, 7, r.models[0].NowMs+time.Hour.Milliseconds())
	g.Grant.Unlimited, g.Grant.Stops = true, true
	give(g)
	q := r.request(r.baseMs, 0)
	q.Amount = 7
	r.reserve(q)
	r.ok(r.engines[0].Commit(r.ctx, full(q)))
	for range meter.GrantsMax - 2 { // the payer has one from the start
		give(change(1, 1, meter.Never))
	}
	r.told(meter.CodeTooManyGrants)(r.engines[0].Grant(r.ctx, change(1, 1, meter.Never)))
	r.pass(time.Hour)
	give(change(1, 1, meter.Never))
}

// A Lua number is a double: an account whose sums pass 2^53 would be counted wrong.
func TestAccountStaysCountable(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	g := meter.GrantChange{Account: payer, Grant: meter.Grant{
		ID: r.id(r.baseMs), Bucket: "promo", Available: meter.MaxCredits - 99, ExpiresMs: meter.Never,
	}}
	_, err := r.engines[0].Grant(r.ctx, g)
	require.ErrorContains(t, err, "counted exactly")
	r.requireBalance(100, 0)
	g.Grant.Available--
	r.book.AddLot(g.Grant)
	r.ok(r.engines[0].Grant(r.ctx, g))
	r.requireBalance(meter.MaxCredits, 0)
	q := r.request(r.baseMs, 0)
	q.Amount = meter.MaxCredits
	require.Equal(t, meter.MaxCredits, r.reserve(q).Reservation.Amount)
	d := r.ok(r.engines[0].Release(r.ctx, bare(q)))
	require.Equal(t, meter.MaxCredits, d.Reservation.Available)
}

// A settlement that names another account would move credit between the two.
func TestReservationIsOfOneAccount(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	r.book.AddAccount("beta") // of the same partition
	r.book.AddAccount("gamma")
	require.Equal(t, r.layout.PartitionOf(payer), r.layout.PartitionOf("beta"))
	require.NotEqual(t, r.layout.PartitionOf(payer), r.layout.PartitionOf("gamma"))
	q := r.request(r.baseMs, 0)
	r.reserve(q)
	for _, other := range []string{"beta", "gamma"} {
		s := full(q)
		s.Account = other
		_, err := r.engines[0].Commit(r.ctx, s)
		require.Error(t, err)
		_, err = r.engines[0].Release(r.ctx, s)
		require.Error(t, err)
		again := q
		again.Account = other
		_, err = r.engines[0].Reserve(r.ctx, again)
		require.Error(t, err)
	}
	strange := r.request(r.baseMs, 0)
	strange.Account = "gamma"
	_, err := r.engines[0].Reserve(r.ctx, strange)
	require.ErrorIs(t, err, meter.ErrNotSent)
	require.ErrorContains(t, err, "not in partition")
	require.Zero(t, r.client.Exists(r.ctx, r.layout.Keys(q.ID.Partition).Account("gamma")).Val(),
		"an account is in its own partition only")
	r.requireBalance(90, 10)
}

func TestLostReserveIsNotChargedForMoreThanItHeld(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	s := full(r.request(r.baseMs, 0))
	s.Amount++
	r.told(meter.CodeConflict)(r.engines[0].Commit(r.ctx, s))
	r.requireBalance(100, 0)
}

// An outage moves the deadlines of what is open, and nothing else.
func TestOutageMovesNoSettledDeadline(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	settled, open := r.request(r.baseMs, 0), r.request(r.baseMs, 0)
	never := r.request(r.baseMs, 0)
	r.reserve(settled)
	before := r.ok(r.engines[0].Commit(r.ctx, full(settled))).Reservation
	deadline := r.reserve(open).Reservation.DeadlineMs
	r.ok(r.engines[0].Release(r.ctx, bare(never)))
	keys := r.layout.Keys(open.ID.Partition)
	require.NoError(t, metertest.EditMeta(r.ctx, r.client, keys, func(m *meter.Meta) { m.DownMs += 5_000 }))
	require.Equal(t, before, r.ok(r.engines[0].Commit(r.ctx, full(settled))).Reservation)
	require.Equal(t, deadline+5_000, r.reserve(open).Reservation.DeadlineMs)
	require.Zero(t, r.ok(r.engines[0].Release(r.ctx, bare(never))).Reservation.DeadlineMs)
}
