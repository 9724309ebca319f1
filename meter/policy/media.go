package policy

import (
	"fmt"
	"strings"
)

const (
	mediaJSON  = "application/json"
	mediaForm  = "application/x-www-form-urlencoded"
	mediaParts = "multipart/form-data"
)

// media is which of the three readers a Content-Type asks for, and the boundary of the third. It refuses kinds that
// the operation is not priced by.
func (n *needs) media(sent string) (kind, boundary string, err *InputError) {
	t, plain := contentType{kind: mediaJSON}, true
	if sent != mediaJSON {
		t, plain = parseContentType(sent)
	}
	if kind = t.kind; strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json") {
		kind = mediaJSON
	}
	if c := t.charset; c != "" && !strings.EqualFold(c, "utf-8") && !strings.EqualFold(c, "us-ascii") {
		return "", "", &InputError{ErrInvalid, "", fmt.Sprintf("The body has charset %s; send UTF-8.", show(c))}
	}
	priced := kind == mediaJSON && n.body.wanted() || kind == mediaForm && len(n.form) > 0 ||
		kind == mediaParts && (len(n.form) > 0 || len(n.parts) > 0)
	switch {
	case !priced:
		return "", "", &InputError{ErrInvalid, "", fmt.Sprintf(
			"The body has Content-Type %s; this request is priced by its body, so send %s.", show(sent), n.kinds())}
	case !plain:
		return "", "", &InputError{ErrInvalid, "", fmt.Sprintf(
			"The body has Content-Type %s; send the bare type, at most with one charset and, if it is multipart, one boundary "+
				"of letters, digits and '()+_,./:=?-, in quotes unless it is of letters, digits and '+_.- only.", show(sent))}
	}
	return kind, t.boundary, nil
}

// kinds are the media types that the operation can be priced by.
func (n *needs) kinds() string {
	var out []string
	if n.body.wanted() {
		out = append(out, mediaJSON)
	}
	if len(n.form) > 0 {
		out = append(out, mediaForm)
	}
	if len(n.form) > 0 || len(n.parts) > 0 {
		out = append(out, mediaParts)
	}
	return strings.Join(out, " or ")
}

// MultipartBoundary is the boundary of a multipart/form-data body, if its Content-Type is of the one form that all
// readers read alike.
func MultipartBoundary(sent string) (boundary string, ok bool) {
	t, ok := parseContentType(sent)
	return t.boundary, ok && t.kind == mediaParts && t.boundary != ""
}

// contentType is a Content-Type that has only what every reader understands.
type contentType struct{ kind, charset, boundary string }

// parseContentType reads less than RFC 9110 and RFC 2231 allow, because readers differ on the rest: some let
// boundary*= replace boundary=, some take the first of two, some stop an unquoted value at a comma. ok is false if
// there is anything of the kind; the media type itself is returned all the same.
func parseContentType(s string) (t contentType, ok bool) {
	kind, params, more := strings.Cut(s, ";")
	t.kind = strings.ToLower(strings.Trim(kind, " \t"))
	if major, minor, slash := strings.Cut(t.kind, "/"); !slash || !isToken(major) || !isToken(minor) {
		return t, false
	}
	for more {
		var param string
		param, params, more = strings.Cut(params, ";")
		name, value, is := strings.Cut(strings.Trim(param, " \t"), "=")
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			value, is = strings.CutSuffix(inner, `"`)
		} else {
			is = is && isToken(value)
		}
		switch into := t.param(name); {
		case !is || into == nil || *into != "" || len(value) > boundaryMax || !all(value, boundaryByte):
			return t, false
		default:
			*into = value
		}
	}
	return t, true
}

// param is where a parameter's value goes, nil if there may be none of that name.
func (t *contentType) param(name string) *string {
	switch {
	case strings.EqualFold(name, "charset"):
		return &t.charset
	case strings.EqualFold(name, "boundary") && strings.HasPrefix(t.kind, "multipart/"):
		return &t.boundary
	}
	return nil
}

// boundaryByte reports whether RFC 2046 lets c stand in a boundary; a blank, which it also allows, is not taken.
func boundaryByte(c byte) bool { return alphanumeric(c) || strings.IndexByte("'()+_,./:=?-", c) >= 0 }

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isToken reports whether s may stand without quotes. '*' is left out: in a name it marks an extended parameter.
func isToken(s string) bool {
	return all(s, func(c byte) bool { return alphanumeric(c) || strings.IndexByte("!#$%&'+-.^_`|~", c) >= 0 })
}

// all reports whether s is not empty and only of such bytes.
func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return s != ""
}
