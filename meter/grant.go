package meter

import (
	"bytes"
	"cmp"
	"slices"
)

// Never is the expiry of a grant that does not expire: the largest 48-bit Unix millisecond, so that "never" sorts
// last without a special case.
const Never int64 = 1<<47 - 1

// GrantsMax bounds the live grants of one account: every verb walks them inside a script.
const GrantsMax = 64

// Grant is one dated lot of credit in one bucket, as an account holds it now. What was granted, spent and lapsed
// is in the ledger; here is only what can still move.
type Grant struct {
	ID        ID
	Bucket    string
	Rank      uint8 // position of the bucket in the policy's drain order, 0 first
	Paid      bool  // a price was paid: such draws are returned first
	Unlimited bool  // a fair-use cap: shown as unlimited, counted all the same
	// Stops says that while the grant is in force nothing behind it in drain order is drawn, even when it is used up;
	// until anything is revoked of it.
	Stops       bool
	Available   Credits
	Held        Credits
	Debt        Credits // revoked but already drawn; returned draws pay it first
	EffectiveMs int64
	ExpiresMs   int64 // Never if it does not expire
	CreatedMs   int64
}

// Live reports whether the grant may be drawn from at nowMs.
func (g Grant) Live(nowMs int64) bool { return g.EffectiveMs <= nowMs && nowMs < g.ExpiresMs }

// CompareGrants is the drain order, a total order: bucket rank, then earliest expiry, then oldest, then id.
// lua/lib/account.lua holds the same rule; a test compares them.
func CompareGrants(a, b Grant) int {
	return cmp.Or(
		cmp.Compare(a.Rank, b.Rank),
		cmp.Compare(a.ExpiresMs, b.ExpiresMs),
		cmp.Compare(a.CreatedMs, b.CreatedMs),
		bytes.Compare(a.ID[:], b.ID[:]),
	)
}

// Draw is an amount taken from one grant; Charged is the part of it that a settlement kept.
type Draw struct {
	Grant   ID
	Amount  Credits
	Charged Credits
}

// Account is the packed state of one account in Redis: what is needed to decide the next verb and nothing that
// can be read from the ledger.
type Account struct {
	Seq          uint64 // dense, one per entry of this account
	Suspended    bool
	FlagsVersion uint32 // version of the flags in Postgres; an older change is refused
	Holds        uint32 // open reservations
	PrunedPseq   uint64 // no admin change with a pseq above it was forgotten
	Sum          AvailableSum
	Applied      []AppliedChange
	Grants       []Grant // in drain order
}

// AvailableSum is what Available gives at any moment of a span in which no grant begins or ends, kept by the scripts so
// that a request need not add up every grant. The zero value holds at no moment.
type AvailableSum struct {
	Available Credits
	FromMs    int64
	UntilMs   int64 // the first moment at which it may be another
}

// AppliedChange remembers a grant, revocation or expiry move until the ledger entry that carries it is flushed, so
// that the change cannot be applied twice.
type AppliedChange struct {
	ID   ID
	Pseq uint64
}

// Available is what can be drawn at nowMs: of the live grants in drain order, up to the first that stops.
func (a Account) Available(nowMs int64) (sum Credits) {
	for _, g := range a.Grants {
		if !g.Live(nowMs) {
			continue
		}
		sum += g.Available
		if g.Stops {
			break
		}
	}
	return sum
}

// Stopped is the live grant that keeps those behind it from being drawn, if there is one: a request beyond what is
// available is then one beyond fair use, until the grant expires.
func (a Account) Stopped(nowMs int64) (Grant, bool) {
	for _, g := range a.Grants {
		if g.Stops && g.Live(nowMs) {
			return g, true
		}
	}
	return Grant{}, false
}

// Unlimited reports whether a fair-use cap is in force: the customer then sees no number.
func (a Account) Unlimited(nowMs int64) bool {
	return slices.ContainsFunc(a.Grants, func(g Grant) bool { return g.Unlimited && g.Live(nowMs) })
}

// Held is what open reservations hold.
func (a Account) Held() (sum Credits) {
	for _, g := range a.Grants {
		sum += g.Held
	}
	return sum
}

// BucketBalance is what one bucket holds at a moment.
type BucketBalance struct {
	Name       string
	Available  Credits
	Held       Credits
	NextExpiry *Expiry // of what is available; nil if nothing will expire
}

// Expiry is an amount that lapses at a time.
type Expiry struct {
	Credits Credits
	AtMs    int64
}

// Buckets sums the account's grants by bucket: the named ones first, in that order, then any other that still
// holds credit, so that nothing is hidden when a policy drops a bucket.
func (a Account) Buckets(names []string, nowMs int64) []BucketBalance {
	out := make([]BucketBalance, 0, len(names))
	for _, n := range names {
		out = append(out, BucketBalance{Name: n})
	}
	stopped := false
	for _, g := range a.Grants {
		i := slices.IndexFunc(out, func(b BucketBalance) bool { return b.Name == g.Bucket })
		if i < 0 && g.Held == 0 && (stopped || g.Available == 0 || !g.Live(nowMs)) {
			continue
		}
		if i < 0 {
			out = append(out, BucketBalance{Name: g.Bucket})
			i = len(out) - 1
		}
		out[i].add(g, nowMs, stopped)
		stopped = stopped || g.Stops && g.Live(nowMs)
	}
	return out
}

func (b *BucketBalance) add(g Grant, nowMs int64, stopped bool) {
	b.Held += g.Held
	if stopped || !g.Live(nowMs) || g.Available == 0 {
		return
	}
	b.Available += g.Available
	switch {
	case g.ExpiresMs == Never:
	case b.NextExpiry == nil || g.ExpiresMs < b.NextExpiry.AtMs:
		b.NextExpiry = &Expiry{Credits: g.Available, AtMs: g.ExpiresMs}
	case g.ExpiresMs == b.NextExpiry.AtMs:
		b.NextExpiry.Credits += g.Available
	}
}
