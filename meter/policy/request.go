package policy

import (
	"errors"
	"iter"
)

// Why a request has no price. The error is an *InputError that unwraps to one of these.
var (
	// ErrAmbiguous says that a priced name is there twice, or in another spelling beside the priced one, so that
	// gateway and backend could read different values. Problem ambiguous-price, 400.
	ErrAmbiguous = errors.New("ambiguous price")
	// ErrInvalid says that a priced value is missing or is not what the policy prices. Problem invalid-request, 400.
	ErrInvalid = errors.New("invalid request")
	// ErrTooMany says that a request asks for more units than the operation allows. Problem invalid-request, 400.
	ErrTooMany = errors.New("too many units")
	// ErrEncoding says that a priced body has a Content-Encoding. Problem unsupported-encoding, 415.
	ErrEncoding = errors.New("unsupported content encoding")
)

// InputError is why one request has no price.
type InputError struct {
	Err    error  // one of the sentinels above
	Param  string // the priced name at fault, such as body.n; "" if the whole body is
	Detail string // one sentence for the caller: what, and how to mend it
}

// Error is the detail.
func (e *InputError) Error() string { return e.Detail }

// Unwrap is the sentinel.
func (e *InputError) Unwrap() error { return e.Err }

// Request is what a price may be read from. Nothing of it is retained: a View copies the few values it needs.
type Request struct {
	Params Params // from Match
	Query  []byte // as sent, without the question mark
	// Header yields every header line, Content-Type and Content-Encoding among them: fasthttp's
	// RequestHeader.All. Nil means none.
	Header iter.Seq2[[]byte, []byte]
	Body   []byte
}

// View is the values of one request that its operation's expressions name, and no others.
type View struct{ env map[string]any }

// Read takes from a request what the operation is priced by. It looks only at the places that the expressions
// name: an operation with a fixed price reads nothing and cannot fail. The error is an *InputError.
func (o *Operation) Read(r Request) (View, error) { return View{}, nil }
