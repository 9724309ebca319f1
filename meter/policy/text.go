package policy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// texts collects the named values of a source that sends texts: query, form, header. A name may be there once, and
// in no spelling that another reader takes for it.
type texts struct {
	source string
	names  []string
	out    map[string]any
}

func newTexts(source string, names []string) *texts {
	return &texts{source: source, names: names, out: make(map[string]any, len(names))}
}

// wants is the priced name that a sent name is, "" if it is none, or an error if it is another spelling of one.
func (t *texts) wants(sent []byte) (string, *InputError) {
	for _, n := range t.names {
		if string(sent) == n {
			return n, nil
		}
	}
	for _, n := range t.names {
		if variant(sent, n) {
			param := t.source + "." + n
			return "", &InputError{
				ErrAmbiguous, param,
				fmt.Sprintf("%s is also sent as %s; send it once, as %q.", param, show(string(sent)), n),
			}
		}
	}
	return "", nil
}

// set keeps the value of a priced name.
func (t *texts) set(name string, value []byte) *InputError {
	param := t.source + "." + name
	if _, twice := t.out[name]; twice {
		return &InputError{ErrAmbiguous, param, param + " is there twice; send it once."}
	}
	if len(value) > textMax {
		return &InputError{ErrInvalid, param, fmt.Sprintf("%s has %d bytes; at most %d are read.", param, len(value), textMax)}
	}
	t.out[name] = string(value)
	return nil
}

// variant reports whether some reader takes sent for name although it is spelled differently: in another case,
// with blanks or control characters around it or after it, with the brackets of a list after it or around it, or in
// broken UTF-8.
func variant(sent []byte, name string) bool {
	if len(sent) < len(name)-2 { // the name may have brackets
		return false
	}
	if len(sent) > textMax { // is not walked for each priced name: its end cannot matter unless its beginning is trimmed
		if first, _ := utf8.DecodeRune(sent); first <= ' ' || first == 0x7f || first == '[' || first == utf8.RuneError {
			return true
		}
		sent = sent[:textMax]
	}
	if i := bytes.IndexFunc(sent, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }); i > 0 {
		sent = sent[:i]
	}
	sent = bytes.TrimFunc(sent, func(r rune) bool { return r <= ' ' || r == 0x7f || r == utf8.RuneError })
	sent = bytes.TrimLeft(sent, "[")
	if i := bytes.IndexAny(sent, "[]"); i > 0 {
		sent = sent[:i]
	}
	bare, _, _ := strings.Cut(name, "[")
	return strings.EqualFold(string(sent), bare) // compiled without a copy? see BenchmarkRead; names are short
}

// pairsMax bounds what names are looked for in: readers stop after some number of pairs, and do not say so.
const pairsMax = 256

// readQuery takes names from a query or an urlencoded form.
func (t *texts) readQuery(b []byte) *InputError {
	for pairs := 1; len(b) > 0; pairs++ {
		if pairs > pairsMax {
			return &InputError{ErrInvalid, "", fmt.Sprintf(
				"The %s has more than %d names; this request is priced by it, so send fewer.", t.source, pairsMax)}
		}
		var pair []byte
		pair, b, _ = bytes.Cut(b, []byte{'&'})
		key, value, _ := bytes.Cut(pair, []byte{'='})
		key, ok := unescape(key)
		if !ok || bytes.IndexByte(pair, ';') >= 0 {
			return &InputError{ErrInvalid, "", fmt.Sprintf(
				"The %s has %s, which is not urlencoded; write %% and ; as %%25 and %%3B.", t.source, show(string(pair)))}
		}
		name, err := t.wants(key)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if value, ok = unescape(value); !ok {
			return &InputError{ErrInvalid, t.source + "." + name, t.source + "." + name + " is not urlencoded; write % as %25."}
		}
		if err := t.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// unescape resolves + and %XX; what has none is returned as it is.
func unescape(b []byte) ([]byte, bool) {
	if !bytes.ContainsAny(b, "+%") {
		return b, true
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2]) {
				return nil, false
			}
			out = append(out, unhex(b[i+1])<<4|unhex(b[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out, true
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// addHeader takes a header line. Servers behind CGI-like interfaces take _ for -, and none minds case.
func (t *texts) addHeader(key, value []byte) *InputError {
	for _, n := range t.names {
		if !sameHeader(key, n) {
			continue
		}
		if bytes.IndexByte(key, '_') >= 0 && strings.IndexByte(n, '_') < 0 {
			param := "header." + n
			return &InputError{ErrAmbiguous, param, fmt.Sprintf("%s is sent as %s; send it once, as %q.", param, show(string(key)), n)}
		}
		return t.set(n, bytes.TrimSpace(value))
	}
	return nil
}

func sameHeader(sent []byte, name string) bool {
	if len(sent) != len(name) {
		return false
	}
	for i := range sent {
		if dash(lower(sent[i])) != dash(name[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func dash(c byte) byte {
	if c == '_' {
		return '-'
	}
	return c
}
