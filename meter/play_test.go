package meter_test

import (
	"context"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// play draws verbs. Ids, keys and changes come from small pools, so that repeats, conflicts and races between
// attempts are the rule; amounts are small, so that grants run dry; leases and expiries are short.
type play struct {
	*world
	reservations []meter.Reserve // every one ever asked for, the newest last
	grants       []meter.GrantChange
	revocations  []meter.Revocation
	moves        []meter.ExpiryMove
	reversals    []meter.Reversal
	keyRound     byte // raised when key records were dropped: their keys are not used again
	baseMs       int64
}

const (
	poolMax    = 12
	grantsEver = 40 // per play; each stays in the ledger's sums
)

var accounts = []string{"alpha", "beta", "gamma"} // two partitions

func newPlay(
	ctx context.Context, t require.TestingT, server *redisd.Server, mutations ...func(*meter.Engine),
) *play {
	p := &play{world: newWorld(ctx, t, server, 2, mutations...), baseMs: time.Now().UnixMilli()}
	for _, a := range accounts {
		p.book.AddAccount(a)
		_, err := p.engines[0].Balance(ctx, a)
		require.NoError(t, err)
		p.models[p.layout.PartitionOf(a)].Load(a, meter.Account{})
	}
	return p
}

// fund gives every account something for the first requests to find.
func (p *play) fund() {
	for _, a := range accounts {
		for i, lasts := range []int64{30_000, 30_000, 2_000, never} {
			p.grants = append(p.grants, p.lot(a, uint8(i/2), i%2 == 1, 4, 0, lasts, noCap))
			p.do(0, false, p.granting(p.grants[len(p.grants)-1]))
		}
	}
}

func (p *play) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":             func(*rapid.T) { p.compare() },
		"reserve":      func(t *rapid.T) { p.send(t, p.reserve(t)) },
		"reserve more": func(t *rapid.T) { p.send(t, p.reserve(t), p.reserve(t)) },
		"commit":       func(t *rapid.T) { p.send(t, p.commit(t)) },
		"release":      func(t *rapid.T) { p.send(t, p.release(t)) },
		"keep":         func(t *rapid.T) { p.send(t, p.extend(t)) },
		"expire":       func(t *rapid.T) { p.send(t, p.expire(t)) },
		"grant":        func(t *rapid.T) { p.send(t, p.grant(t)) },
		"cap":          func(t *rapid.T) { p.send(t, p.cap(t)) },
		"administer":   func(t *rapid.T) { p.send(t, p.administer(t)) },
		"lapse":        func(t *rapid.T) { p.send(t, p.lapse(t)) },
		"lapses":       p.lapseDue,
		"flight": func(t *rapid.T) {
			var verbs []verb
			for range rapid.IntRange(2, 6).Draw(t, "verbs") {
				verbs = append(verbs, rapid.SampledFrom([]func(*rapid.T) verb{
					p.reserve, p.commit, p.release, p.extend, p.expire, p.grant, p.administer, p.lapse,
				}).Draw(t, "verb")(t))
			}
			p.send(t, verbs...)
		},
		"time": p.pass,
		"flush": func(t *rapid.T) {
			p.flush(rapid.SampledFrom([]int{1, 1_000}).Draw(t, "records"), rapid.Bool().Draw(t, "tell"), rapid.Bool().Draw(t, "trim"))
		},
		"forget":  p.forget,
		"disturb": p.disturb,
	}
}

// send flies verbs through one gateway; sometimes the reply is lost on the way, sometimes the other gateway sends the
// same again.
func (p *play) send(t *rapid.T, verbs ...verb) {
	gateway := rapid.IntRange(0, 1).Draw(t, "gateway")
	fate := rapid.IntRange(0, 99).Draw(t, "fate")
	p.do(gateway, fate == 99, verbs...)
	if fate >= 85 {
		p.do(1-gateway, false, verbs...)
	}
}

func (p *play) account(t *rapid.T) string { return rapid.SampledFrom(accounts).Draw(t, "account") }

func (p *play) home(account string) *metertest.Model { return p.models[p.layout.PartitionOf(account)] }

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

// grant adds a lot, or repeats one as the sweeper does: with the cursor that was read when it was written down, or
// one read now if the ledger has no entry for it.
func (p *play) grant(t *rapid.T) verb {
	n := len(p.grants)
	if n == 0 || n < grantsEver && rapid.IntRange(0, 3).Draw(t, "again") > 0 {
		p.grants = append(p.grants, p.newGrant(t))
		n++
	} else {
		n = 1 + rapid.IntRange(0, n-1).Draw(t, "which")
	}
	g := p.grants[n-1]
	g.CheckedPseq = p.checked(t, g.Account, g.Grant.ID, g.CheckedPseq)
	return p.granting(g)
}

// cap adds a small fair-use cap that stops what is behind it from now on, in front of most.
func (p *play) cap(t *rapid.T) verb {
	if len(p.grants) >= grantsEver {
		return p.balancing(p.account(t))
	}
	g := p.lot(p.account(t), rapid.Uint8Range(0, 1).Draw(t, "rank"), false, meter.Credits(rapid.IntRange(1, 4).Draw(t, "credits")),
		0, rapid.SampledFrom([]int64{never, 1_500, 4_000}).Draw(t, "lasts"), capStops)
	p.grants = append(p.grants, g)
	return p.granting(g)
}

func (p *play) newGrant(t *rapid.T) meter.GrantChange {
	return p.lot(p.account(t), rapid.Uint8Range(0, 2).Draw(t, "rank"), rapid.Bool().Draw(t, "paid"),
		meter.Credits(rapid.IntRange(1, 12).Draw(t, "credits")),
		rapid.SampledFrom([]int64{0, 0, 0, 2_000}).Draw(t, "from"), p.lasts(t),
		rapid.SampledFrom([]fairUse{noCap, noCap, noCap, noCap, capDraws, capStops}).Draw(t, "cap"))
}

// fairUse says whether a grant is a fair-use cap, and what comes after it.
type fairUse int

const (
	noCap fairUse = iota
	capDraws
	capStops
)

// lot writes a grant down in the book, as Postgres has it before it is applied.
func (p *play) lot(
	account string, rank uint8, paid bool, credits meter.Credits, from, lasts int64, fair fairUse,
) meter.GrantChange {
	nowMs := p.home(account).NowMs
	g := meter.Grant{
		ID: p.id(nowMs), Rank: rank, Bucket: []string{"promo", "monthly", "purchased"}[rank], Paid: paid,
		Available: credits, EffectiveMs: nowMs + from, ExpiresMs: p.expiry(account, lasts), CreatedMs: nowMs,
		Unlimited: fair != noCap, Stops: fair == capStops,
	}
	p.book.AddLot(g)
	at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(account))
	require.NoError(p.t, err)
	return meter.GrantChange{Account: account, Grant: g, Note: meter.Note{Reason: "test"}, CheckedPseq: at.Pseq}
}

const never = -1

func (p *play) lasts(t *rapid.T) int64 {
	return rapid.SampledFrom([]int64{never, 0, 1, 500, 1_500, 4_000}).Draw(t, "lasts")
}

func (p *play) expiry(account string, lasts int64) int64 {
	if lasts == never {
		return meter.Never
	}
	return p.home(account).NowMs + lasts
}

// checked is the cursor that a sender of an admin change may truthfully give.
func (p *play) checked(t *rapid.T, account string, change meter.ID, first uint64) uint64 {
	for _, e := range p.book.Entries() {
		if e.ID == change {
			return first // an old message: whoever looks now would not send it
		}
	}
	if rapid.Bool().Draw(t, "looked again") {
		at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(account))
		require.NoError(p.t, err)
		return at.Pseq
	}
	return first
}

func (p *play) administer(t *rapid.T) verb {
	kinds := []func(*rapid.T) verb{p.suspend, p.balance}
	if len(p.grants) > 0 {
		kinds = append(kinds, p.revoke, p.revoke, p.instead, p.reverse, p.move)
	}
	return rapid.SampledFrom(kinds).Draw(t, "kind")(t)
}

// someGrant is a grant that was asked for, mostly one that still has something.
func (p *play) someGrant(t *rapid.T) meter.GrantChange {
	if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
		return rapid.SampledFrom(p.grants).Draw(t, "grant")
	}
	live := []meter.GrantChange{p.grants[0]}
	for _, g := range p.grants {
		for _, has := range p.home(g.Account).Accounts[g.Account].Grants {
			if has.ID == g.Grant.ID {
				live = append(live, g)
			}
		}
	}
	return rapid.SampledFrom(live).Draw(t, "live grant")
}

// owing are the grants of which something is held and something owed: chance alone rarely revokes one again.
func (p *play) owing() (out []meter.GrantChange) {
	for _, g := range p.grants {
		for _, has := range p.home(g.Account).Accounts[g.Account].Grants {
			if has.ID == g.Grant.ID && has.Held > 0 && has.Debt > 0 {
				out = append(out, g)
			}
		}
	}
	return out
}

func (p *play) revoke(t *rapid.T) verb {
	n := len(p.revocations)
	if n == 0 || rapid.Bool().Draw(t, "new") {
		// A revocation follows its grant: Postgres knows that it was applied.
		g := p.someGrant(t)
		beyond := []meter.Beyond{meter.BeyondDebt, meter.BeyondDebt, meter.BeyondNothing, meter.BeyondHeld}
		if owing := p.owing(); len(owing) > 0 && rapid.Bool().Draw(t, "of what owes") {
			g, beyond = rapid.SampledFrom(owing).Draw(t, "owing grant"), []meter.Beyond{meter.BeyondHeld, meter.BeyondDebt}
		}
		at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(g.Account))
		require.NoError(p.t, err)
		p.revocations = append(p.revocations, meter.Revocation{
			ID: p.id(p.home(g.Account).NowMs), Account: g.Account, Grant: g.Grant.ID,
			Amount: meter.Credits(rapid.IntRange(1, 20).Draw(t, "amount")), CheckedPseq: at.Pseq,
			Beyond: rapid.SampledFrom(beyond).Draw(t, "beyond"),
		})
		n++
	} else {
		n = 1 + rapid.IntRange(0, n-1).Draw(t, "which")
	}
	r := p.revocations[n-1]
	if !p.applied(r.Account, r.Grant) {
		return p.balancing(p.account(t))
	}
	if r.CheckedPseq = p.checked(t, r.Account, r.ID, r.CheckedPseq); r.Undone != nil {
		undone := *r.Undone
		if _, done := p.flushed(r.ID); !done { // what it owes is read with the cursor
			at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(r.Account))
			require.NoError(p.t, err)
			r.CheckedPseq, undone.Grant = at.Pseq, p.terms(r.Grant)
		}
		r.Undone = &undone
	}
	return p.revoking(r)
}

// instead revokes a grant in place of a revocation whose entry is flushed.
func (p *play) instead(t *rapid.T) verb {
	fresh := p.undoable()
	if len(fresh) == 0 {
		return p.revoke(t)
	}
	old := rapid.SampledFrom(fresh).Draw(t, "revocation")
	undone := p.reversalOf(old)
	p.revocations = append(p.revocations, meter.Revocation{
		ID: p.id(p.home(old.Account).NowMs), Account: old.Account, Grant: old.Grant, CheckedPseq: undone.CheckedPseq,
		Amount: max(1, undone.Amount+meter.Credits(rapid.IntRange(-1, 5).Draw(t, "more"))), // less is a bug in a caller
		Beyond: rapid.SampledFrom([]meter.Beyond{meter.BeyondDebt, meter.BeyondNothing, meter.BeyondHeld}).Draw(t, "beyond"),
		Undone: &undone,
	})
	return p.revoking(p.revocations[len(p.revocations)-1])
}

// undoable are the revocations that took or are owed something, whose entry is flushed, and that nothing undid.
func (p *play) undoable() (fresh []meter.Revocation) {
	for _, r := range p.revocations {
		undone := slices.ContainsFunc(p.reversals, func(v meter.Reversal) bool { return v.Note.Reason == r.ID.String() }) ||
			slices.ContainsFunc(p.revocations, func(v meter.Revocation) bool {
				return v.Undone != nil && v.Undone.Note.Reason == r.ID.String()
			})
		if entry, ok := p.flushed(r.ID); ok && !undone && entry.Amount > 0 {
			fresh = append(fresh, r)
		}
	}
	return fresh
}

// reverse undoes a revocation whose entry is flushed, once, or repeats that.
func (p *play) reverse(t *rapid.T) verb {
	fresh, n := p.undoable(), len(p.reversals)
	switch {
	case len(fresh) > 0 && (n == 0 || rapid.IntRange(0, 3).Draw(t, "again") > 0):
		r := rapid.SampledFrom(fresh).Draw(t, "revocation")
		p.reversals = append(p.reversals, p.reversalOf(r))
		n++
	case n == 0:
		return p.balancing(p.account(t))
	default:
		n = 1 + rapid.IntRange(0, n-1).Draw(t, "which")
	}
	v := p.reversals[n-1]
	if _, done := p.flushed(v.ID); !done && rapid.Bool().Draw(t, "looked again") {
		at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(v.Account))
		require.NoError(p.t, err)
		v.CheckedPseq, v.Grant = at.Pseq, p.terms(v.Grant.ID)
	}
	return p.reversing(v)
}

func (p *play) reversalOf(r meter.Revocation) meter.Reversal {
	entry, _ := p.flushed(r.ID)
	at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(r.Account))
	require.NoError(p.t, err)
	return meter.Reversal{
		ID: p.id(p.home(r.Account).NowMs), Account: r.Account, Grant: p.terms(r.Grant), CheckedPseq: at.Pseq,
		Amount: entry.Amount, Note: meter.Note{Reason: r.ID.String()},
	}
}

// terms are a grant as the book has it: where its expiry was moved to, and what it owes.
func (p *play) terms(grant meter.ID) meter.Grant {
	g := p.book.Lot(grant)
	g.Debt = 0
	for _, e := range p.book.Entries() {
		for _, l := range e.Lines {
			if l.Grant == grant {
				g.Debt += l.Debt
			}
		}
	}
	return g
}

// flushed is the entry of a change, once the book has it.
func (p *play) flushed(change meter.ID) (meter.Entry, bool) {
	for _, e := range p.book.Entries() {
		if e.ID == change {
			return e, true
		}
	}
	return meter.Entry{}, false
}

func (p *play) applied(account string, change meter.ID) bool {
	for _, e := range p.home(account).Entries() {
		if e.ID == change {
			return true
		}
	}
	return false
}

func (p *play) move(t *rapid.T) verb {
	n := len(p.moves)
	if n == 0 || rapid.Bool().Draw(t, "new") {
		g := p.someGrant(t)
		at, err := p.book.Cursor(p.ctx, p.layout.PartitionOf(g.Account))
		require.NoError(p.t, err)
		p.moves = append(p.moves, meter.ExpiryMove{
			ID: p.id(p.home(g.Account).NowMs), Account: g.Account, Grant: g.Grant.ID, ExpiresMs: p.expiry(g.Account, p.lasts(t)),
			CheckedPseq: at.Pseq,
		})
		n++
	} else {
		n = 1 + rapid.IntRange(0, n-1).Draw(t, "which")
	}
	v := p.moves[n-1]
	v.CheckedPseq = p.checked(t, v.Account, v.ID, v.CheckedPseq)
	move := p.moving(v)
	apply := move.model
	move.model = func(m *metertest.Model) meter.Decision {
		before := len(m.Entries())
		d := apply(m)
		if len(m.Entries()) > before {
			p.moveInBook(v)
		}
		return d
	}
	return move
}

// moveInBook writes a move down where an account is loaded from.
func (p *play) moveInBook(v meter.ExpiryMove) {
	for _, g := range p.grants {
		if g.Grant.ID == v.Grant {
			g.Grant.ExpiresMs = v.ExpiresMs
			p.book.AddLot(g.Grant)
		}
	}
}

func (p *play) suspend(t *rapid.T) verb {
	account, suspended := p.account(t), rapid.IntRange(0, 3).Draw(t, "suspended") == 0
	v := p.suspending(account, suspended, uint32(rapid.IntRange(0, 20).Draw(t, "version")))
	suspend := v.model
	v.model = func(m *metertest.Model) meter.Decision {
		d := suspend(m)
		p.book.SetFlags(account, d.Account.Suspended, d.Account.FlagsVersion)
		return d
	}
	return v
}

func (p *play) balance(t *rapid.T) verb { return p.balancing(p.account(t)) }

func (p *play) lapse(t *rapid.T) verb {
	if len(p.grants) == 0 {
		return p.balancing(p.account(t))
	}
	account := p.account(t)
	m := p.home(account)
	for _, g := range m.Accounts[account].Grants { // the first that is over, as the sweeper sees it
		if g.ExpiresMs <= m.NowMs && rapid.Bool().Draw(t, "over") {
			return p.lapsing(account, g.ID)
		}
	}
	g := p.someGrant(t)
	return p.lapsing(g.Account, g.Grant.ID)
}

// lapseDue is a round of the lapser, by what the book knows. Once that is everything, nothing that is over has anything
// left to draw.
func (p *play) lapseDue(t *rapid.T) {
	flushed := rapid.Bool().Draw(t, "flushed")
	if flushed {
		p.flush(1_000, true, false)
	}
	due, err := p.book.DueLapses(p.ctx, meter.Lapse{}, p.now(), 64) // one call takes so many; no play has more
	require.NoError(p.t, err)
	p.touch()
	require.NoError(p.t, p.engines[0].LapseDue(p.ctx))
	for _, m := range p.models {
		m.Batch(func() {
			for _, l := range due {
				if p.home(l.Account) == m {
					m.Lapse(l.Account, l.Grant)
				}
			}
		})
		for _, a := range m.Accounts {
			for _, g := range a.Grants {
				require.False(p.t, flushed && g.ExpiresMs <= m.NowMs && g.Available > 0, "grant %s was not found", g.ID)
			}
		}
	}
}

// pass lets time go by.
func (p *play) pass(t *rapid.T) {
	ms := rapid.SampledFrom([]int64{1, 499, 1_000, 1_000, 3_000, 20 * 60_000}).Draw(t, "ms")
	for _, m := range p.models {
		m.NowMs += ms
	}
	p.setClock()
}

// forget tries to drop the slot of a known reservation, of its outcome or of its key.
func (p *play) forget(t *rapid.T) {
	q, ok := p.known(t)
	if !ok {
		return
	}
	if rapid.Bool().Draw(t, "flushed") {
		p.flush(1_000, true, false)
	}
	created := q.ID.ID.CreatedMs()
	if rapid.IntRange(0, 3).Draw(t, "what") > 0 {
		p.do(0, false, p.dropping(q.ID.Partition, created, false))
		return
	}
	if rapid.Bool().Draw(t, "a day later") {
		for _, m := range p.models {
			m.NowMs += 24 * time.Hour.Milliseconds()
		}
		p.setClock()
	}
	p.keyRound++
	p.do(0, false, p.dropping(q.ID.Partition, created, true))
}

// disturb is what happens to Redis from outside: a restart, an outage, the loss of one account.
func (p *play) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 2).Draw(t, "disturbance") {
	case 0:
		p.reopen()
	case 1:
		ms := rapid.SampledFrom([]int64{500, 5_000}).Draw(t, "outage ms")
		for _, m := range p.models {
			m.Outage(ms)
			require.NoError(p.t, metertest.EditMeta(p.ctx, p.client, p.layout.Keys(m.Partition), func(m *meter.Meta) { m.DownMs += ms }))
		}
		p.setClock()
	case 2:
		p.lose(p.account(t))
	}
}
