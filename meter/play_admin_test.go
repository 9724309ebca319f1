package meter_test

import (
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

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
