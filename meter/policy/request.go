package policy

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strings"
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
	// ErrRequired says that a request does not meet a condition of its operation (require). Problem invalid-request, 400.
	ErrRequired = errors.New("requirement not met")
	// ErrEncoding says that a priced body has a Content-Encoding. Only identity is read: what a compressed body
	// expands to has no bound, and decoders disagree about trailing data. Problem unsupported-encoding, 415.
	ErrEncoding = errors.New("unsupported content encoding")
)

// InputError is why one request has no price.
type InputError struct {
	Err    error  // one of the sentinels above
	Param  string // the priced name at fault, such as body.n; "" if the whole body is
	Detail string // a sentence for the caller: what, and how to mend it
}

// Error is the detail.
func (e *InputError) Error() string { return e.Detail }

// Unwrap is the sentinel.
func (e *InputError) Unwrap() error { return e.Err }

// Request is what a price may be read from. Nothing of it is retained: a View copies the few values it needs.
type Request struct {
	Params Params // from Match
	Query  []byte // as sent, without the question mark
	// Header yields every header line, Content-Type and Content-Encoding among them, in any case of letters:
	// fasthttp's RequestHeader.All. Nil means none.
	Header iter.Seq2[[]byte, []byte]
	Body   []byte
}

// View is the values of one request that its operation's expressions name, and no others. The zero value has none.
type View struct {
	op  *Operation
	mem *memory
}

// env is the values by the names that expressions know them by.
func (v View) env() map[string]any {
	if v.mem == nil {
		return nil
	}
	return v.mem.env
}

// AppendPriced appends all that the price was read from, in a form that is the same for the same values only.
func (v View) AppendPriced(b []byte) []byte { return fmt.Appendf(b, "%#v", v.env()) } // in the order of names

// Release lets another request use the view's memory, which spares it the allocations. It may be called once, when
// neither the view nor its Quote is used any more, or not at all.
func (v View) Release() {
	if v.mem != nil {
		v.op.forget(v.mem)
	}
}

// Read takes from a request what the operation is priced by. It looks only at the places that the expressions
// name: an operation with a fixed price reads nothing and cannot fail. The error is an *InputError.
func (o *Operation) Read(r Request) (View, error) {
	if !o.needs.any() {
		return View{}, nil
	}
	m := o.memory()
	if err := o.readInto(m, r); err != nil {
		o.forget(m)
		return View{}, err // not the nil *InputError
	}
	return View{op: o, mem: m}, nil
}

func (o *Operation) readInto(m *memory, r Request) *InputError {
	n := &o.needs
	if len(n.path) > 0 {
		path := m.object(len(n.path))
		for _, name := range n.path {
			path[name], _ = r.Params.Get(name)
		}
		m.env["path"] = path
	}
	if len(n.query) > 0 {
		query := newTexts("query", n.query)
		if err := query.readQuery(r.Query); err != nil {
			return err
		}
		m.env["query"] = query.out
	}
	m.headers = headers{priced: n.header, wantMedia: n.inBody()}
	if err := m.headers.read(r.Header, m.line); err != nil {
		return err
	}
	if len(n.header) > 0 {
		m.env["header"] = m.headers.texts.out
	}
	if !n.inBody() {
		return nil
	}
	return o.readBody(m, r.Body)
}

// headers takes the priced header lines, and those that describe the body.
type headers struct {
	priced    []string
	wantMedia bool

	texts    *texts // of priced
	kind     string // Content-Type
	encoding string // Content-Encoding
	seen     uint8  // bit 0: Content-Type, bit 1: Content-Encoding
	err      *InputError
}

// read walks the lines with line, which is h.line made once.
func (h *headers) read(lines iter.Seq2[[]byte, []byte], line func(key, value []byte) bool) *InputError {
	if len(h.priced) > 0 {
		h.texts = newTexts("header", h.priced)
	}
	if lines != nil && (h.wantMedia || h.texts != nil) {
		lines(line)
	}
	return h.err
}

// line takes one header line; false stops the walk.
func (h *headers) line(key, value []byte) bool {
	if h.texts != nil {
		h.err = h.texts.addHeader(key, value)
	}
	if h.wantMedia && h.err == nil {
		switch {
		case sameHeader(key, "content-type"):
			h.describe(1, &h.kind, "content-type", value)
		case sameHeader(key, "content-encoding"):
			h.describe(2, &h.encoding, "content-encoding", value)
		}
	}
	return h.err == nil
}

// describe keeps a line that may be there once: of two, gateway and backend could follow different ones.
func (h *headers) describe(bit uint8, into *string, name string, value []byte) {
	if h.seen&bit != 0 {
		h.err = &InputError{ErrAmbiguous, "header." + name, "header." + name + " is there twice; send it once."}
		return
	}
	h.seen |= bit
	if string(value) == mediaJSON { // nearly always, and then nothing is copied
		*into = mediaJSON
		return
	}
	*into = string(bytes.TrimSpace(value))
}

// readBody reads the body as its Content-Type says. What the operation is priced by in other kinds of body is
// absent then; an operation that is priced by none of this kind refuses it.
func (o *Operation) readBody(m *memory, body []byte) *InputError {
	n, h := &o.needs, &m.headers
	if n.body != nil && len(n.body.fields) > 0 {
		m.env["body"] = map[string]any(nil) // absent names of an absent body
	}
	if len(n.form) > 0 {
		m.env["form"] = m.object(0)
	}
	if len(n.parts) > 0 {
		m.env["parts"] = m.object(0)
	}
	if len(body) == 0 {
		return nil
	}
	if h.encoding != "" && !strings.EqualFold(h.encoding, "identity") {
		return &InputError{ErrEncoding, "", fmt.Sprintf(
			"The body has Content-Encoding %s; this request is priced by its body, so send it unencoded.", show(h.encoding))}
	}
	kind, boundary, err := n.media(h.kind)
	switch {
	case err != nil:
		return err
	case kind == mediaJSON:
		v, err := readJSON(body, n.body, false, m)
		if err == nil {
			m.env["body"] = v
		}
		return err
	case kind == mediaForm: // media lets it pass only if there is a form
		return n.newMultiparts(m.env).form.readQuery(body)
	}
	return n.newMultiparts(m.env).read(body, boundary)
}

// newMultiparts is where the values of a form and the files of a multipart body go.
func (n *needs) newMultiparts(env map[string]any) *multiparts {
	m := &multiparts{form: &texts{source: "form", names: n.form}, names: n.parts}
	if len(n.form) > 0 {
		m.form.out = make(map[string]any, len(n.form))
		env["form"] = m.form.out
	}
	if len(n.parts) > 0 {
		m.files = make(map[string]any, len(n.parts))
		env["parts"] = m.files
	}
	return m
}
