package policy

import (
	"math"
	"slices"
	"sync"
	"time"

	"creditgate/meter"
)

// Bounds of a policy.
const (
	sourceBytesMax = 256 << 10
	tokensMax      = 10_000 // of YAML, comments aside: the parser's time grows with their square
	bucketsMax     = 16
	operationsMax  = 256
	unitsMax       = 1_000_000             // units one request may be allowed
	unitCreditsMax = 1_000_000             // credits one unit may cost
	versionFormat  = "creditgate policy 1" // raised when a rule gets another meaning
)

// Policy is one product's rules, as read from its file. It does not change after Parse and may be shared.
type Policy struct {
	Name       string
	Location   *time.Location // days, months and resets are counted here
	Buckets    []string       // in drain order; the position of a bucket is its rank
	Operations []*Operation   // by name
	Pass       bool           // unmatched: pass

	Cycle       *Cycle // nil: nothing is renewed
	Plans       []*Plan
	Promotions  []*Promotion
	Packs       []*Pack
	Rules       Rules
	Notices     Notices
	Assumptions []Assumption
	Warnings    []Problem // about what may be meant; the file is not refused for them

	version string
	routes  routes
}

// Operation is one route with its price.
type Operation struct {
	Name   string
	Method string
	Path   string // as in the policy: /v1/images/{id}
	Max    uint32 // units one request may have at most; 0 for a free operation
	// AtZeroRefuse says that a free operation is refused to an account that has no credit left (at_zero: refuse).
	AtZeroRefuse bool

	route     route
	params    []string
	fixed     meter.Credits // per unit; negative if credits is an expression
	credits   *expression
	units     *expression // nil: fixedUnits
	fixedUnit uint32
	delivered *expression   // nil: everything, on 2xx
	require   []requirement // 400 for a request that does not meet them all
	needs     needs
	keepsView bool // delivered reads the request too

	memories sync.Pool // of *memory
}

// Version names the content of the policy: 12 hexadecimal digits that change when a rule does, and do not when
// only comments, layout or the order of operations do. It is frozen in every reservation and entry.
func (p *Policy) Version() string { return p.version }

// Rank is the position of a bucket in the drain order.
func (p *Policy) Rank(bucket string) (rank uint8, ok bool) {
	i := slices.Index(p.Buckets, bucket)
	return uint8(max(i, 0)), i >= 0 // at most bucketsMax buckets
}

// Match finds the operation of a request. The path must be the one that is forwarded, normalised by the caller.
// It does not allocate.
func (p *Policy) Match(method, path string) (*Operation, Params, bool) {
	return p.routes.match(method, path)
}

// Passes reports whether a request that no operation matches may be forwarded unpriced. Under unmatched: pass it
// may, unless its path is an operation's, in whatever spelling (case, slash at the end, ;parameters) and with whatever
// method: a backend that takes both would do priced work for nothing. Other methods of a priced path must be declared.
func (p *Policy) Passes(path string) bool {
	return p.Pass && !p.routes.resembles(path, p.Operations)
}

// Free reports whether the operation costs nothing: its price is the literal 0, and nothing of its requests is read.
// A computed price is never 0.
func (o *Operation) Free() bool { return o.credits == nil && o.fixed == 0 }

// NeedsBody reports whether the price depends on the request body, so that the caller must buffer it.
func (o *Operation) NeedsBody() bool { return o.needs.inBody() }

// NeedsResponse reports whether what was delivered is counted in the response body, so that the caller must
// buffer it, unencoded.
func (o *Operation) NeedsResponse() bool { return o.delivered != nil }

// MaxQuote is the most that a request of this operation can cost: Max units of the dearest kind. It is the price
// of a body too large to be read.
func (o *Operation) MaxQuote() Quote {
	unit := o.fixed
	if o.credits != nil {
		unit = meter.Credits(math.Ceil(o.credits.hi * float64(meter.Credit)))
	}
	q := Quote{Units: o.Max, UnitCredits: unit}
	q.Credits = q.Charge(o.Max)
	return q
}

// Plan finds a plan by name.
func (p *Policy) Plan(name string) (*Plan, bool) {
	i := slices.IndexFunc(p.Plans, func(pl *Plan) bool { return pl.Name == name })
	if i < 0 {
		return nil, false
	}
	return p.Plans[i], true
}

// Pack finds a pack by name.
func (p *Policy) Pack(name string) (*Pack, bool) {
	i := slices.IndexFunc(p.Packs, func(k *Pack) bool { return k.Name == name })
	if i < 0 {
		return nil, false
	}
	return p.Packs[i], true
}
