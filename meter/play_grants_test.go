package meter_test

import (
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
)

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
