package policy

import (
	"errors"
	"fmt"
	"iter"
	"mime"
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

// View is the values of one request that its operation's expressions name, and no others.
type View struct{ env map[string]any }

// Read takes from a request what the operation is priced by. It looks only at the places that the expressions
// name: an operation with a fixed price reads nothing and cannot fail. The error is an *InputError.
func (o *Operation) Read(r Request) (View, error) {
	if !o.needs.any() {
		return View{}, nil
	}
	env := make(map[string]any, 6)
	if err := o.readInto(env, r); err != nil {
		return View{}, err // not the nil *InputError
	}
	return View{env: env}, nil
}

func (o *Operation) readInto(env map[string]any, r Request) *InputError {
	n := &o.needs
	if len(n.path) > 0 {
		path := make(map[string]any, len(n.path))
		for _, name := range n.path {
			path[name], _ = r.Params.Get(name)
		}
		env["path"] = path
	}
	if len(n.query) > 0 {
		query := newTexts("query", n.query)
		if err := query.readQuery(r.Query); err != nil {
			return err
		}
		env["query"] = query.out
	}
	media, err := o.readHeader(env, r.Header)
	if err != nil || !n.inBody() {
		return err
	}
	return o.readBody(env, media, r.Body)
}

// media is what the header says about the body.
type media struct{ kind, encoding string }

// readHeader takes the priced headers, and what describes the body.
func (o *Operation) readHeader(env map[string]any, header iter.Seq2[[]byte, []byte]) (media, *InputError) {
	var m media
	if len(o.needs.header) == 0 && !o.needs.inBody() {
		return m, nil
	}
	priced := newTexts("header", o.needs.header)
	env["header"] = priced.out
	if header == nil {
		return m, nil
	}
	about := newTexts("header", []string{"content-type", "content-encoding"})
	for key, value := range header {
		if err := priced.addHeader(key, value); err != nil {
			return m, err
		}
		if !o.needs.inBody() {
			continue
		}
		if err := about.addHeader(key, value); err != nil {
			return m, err
		}
	}
	m.kind, _ = about.out["content-type"].(string)
	m.encoding, _ = about.out["content-encoding"].(string)
	return m, nil
}

// readBody reads the body as its Content-Type says. What the operation is priced by in other kinds of body is
// absent then; an operation that is priced by none of this kind refuses it.
func (o *Operation) readBody(env map[string]any, m media, body []byte) *InputError {
	n := &o.needs
	form := newTexts("form", n.form)
	parts := multiparts{form: form, names: n.parts, files: make(map[string]any, len(n.parts))}
	env["form"], env["parts"] = form.out, parts.files
	if n.body != nil && len(n.body.fields) > 0 {
		env["body"] = map[string]any(nil) // absent names of an absent body
	}
	if len(body) == 0 {
		return nil
	}
	if m.encoding != "" && !strings.EqualFold(m.encoding, "identity") {
		return &InputError{ErrEncoding, "", fmt.Sprintf(
			"The body has Content-Encoding %s; this request is priced by its body, so send it unencoded.", show(m.encoding))}
	}
	kind, params, err := mime.ParseMediaType(m.kind)
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return &InputError{ErrInvalid, "", fmt.Sprintf("The body has charset %s; send UTF-8.", show(charset))}
	}
	switch {
	case err != nil:
	case n.body.wanted() && (kind == "application/json" || strings.HasSuffix(kind, "+json")):
		v, err := readJSON(body, n.body, false)
		if err == nil {
			env["body"] = v
		}
		return err
	case len(n.form) > 0 && kind == "application/x-www-form-urlencoded":
		return form.readQuery(body)
	case (len(n.form) > 0 || len(n.parts) > 0) && kind == "multipart/form-data":
		return parts.read(body, params["boundary"])
	}
	return &InputError{ErrInvalid, "", fmt.Sprintf(
		"The body has Content-Type %s; this request is priced by its body, so send %s.", show(m.kind), n.kinds())}
}

// kinds are the media types that the operation can be priced by.
func (n *needs) kinds() string {
	var out []string
	if n.body.wanted() {
		out = append(out, "application/json")
	}
	if len(n.form) > 0 {
		out = append(out, "application/x-www-form-urlencoded")
	}
	if len(n.form) > 0 || len(n.parts) > 0 {
		out = append(out, "multipart/form-data")
	}
	return strings.Join(out, " or ")
}
