package policy

import (
	"time"

	"creditgate/meter"
)

// Policy is one product's rules, as read from its file. It does not change after Parse and may be shared.
type Policy struct {
	Name       string
	Location   *time.Location // days, months and resets are counted here
	Buckets    []string       // in drain order; the position of a bucket is its rank
	Operations []*Operation   // by name
	Pass       bool           // unmatched: pass

	version string
}

// Operation is one route with its price.
type Operation struct {
	Name   string
	Method string
	Path   string // as in the policy: /v1/images/{id}
	Max    uint32 // units one request may have at most; 0 for a free operation
}

// Version names the content of the policy: 12 hexadecimal digits that change when a rule does, and do not when
// only comments, layout or the order of operations do. It is frozen in every reservation and entry.
func (p *Policy) Version() string { return p.version }

// Rank is the position of a bucket in the drain order.
func (p *Policy) Rank(bucket string) (rank uint8, ok bool) { return 0, false }

// Match finds the operation of a request. The path must be the one that is forwarded, normalised by the caller.
// It does not allocate.
func (p *Policy) Match(method, path string) (*Operation, Params, bool) { return nil, Params{}, false }

// Passes reports whether a request that no operation matches may be forwarded unpriced. Under unmatched: pass it
// may, unless its path is another spelling (case, trailing slash, ;parameters) of an operation's: a backend that
// takes both would do priced work for nothing.
func (p *Policy) Passes(method, path string) bool { return false }

// Summary is what `creditgate policy check` prints: version, buckets, operations and their prices.
func (p *Policy) Summary() string { return "" }

// Free reports whether the operation costs nothing. Nothing of a free request is read.
func (o *Operation) Free() bool { return false }

// NeedsBody reports whether the price depends on the request body, so that the caller must buffer it.
func (o *Operation) NeedsBody() bool { return false }

// NeedsResponse reports whether what was delivered is counted in the response body, so that the caller must
// buffer it, unencoded.
func (o *Operation) NeedsResponse() bool { return false }

// Params are the path parameters of a match. The zero value has none.
type Params struct{}

// Get is the value of the parameter {name}.
func (p Params) Get(name string) (value string, ok bool) { return "", false }

var _ meter.Credits
