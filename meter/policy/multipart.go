package policy

import (
	"bytes"
	"fmt"
	"mime"
	"net/textproto"
	"strings"
)

// The multipart reader takes form values and counts files. It is its own because it must find, not forgive: a
// boundary, a header or a name that two readers could take differently is refused. It copies nothing but the
// values of priced names.

// Bounds of a multipart body.
const (
	partsMax       = 10_000
	partHeaderMax  = 4096 // bytes of one part's header
	boundaryMax    = 70   // RFC 2046
	boundaryEndMax = 2    // what follows the last boundary: a line end
)

// multiparts reads one body.
type multiparts struct {
	form  *texts
	files map[string]any // name → counted
	names []string       // of files
}

func malformedPart(format string, args ...any) *InputError {
	return &InputError{ErrInvalid, "", "The multipart body cannot be read: " + fmt.Sprintf(format, args...) + "."}
}

func (m *multiparts) read(body []byte, boundary string) *InputError {
	if boundary == "" || len(boundary) > boundaryMax {
		return malformedPart("Content-Type has no boundary of 1 to %d characters", boundaryMax)
	}
	delimiter := []byte("--" + boundary)
	rest, ok := bytes.CutPrefix(body, delimiter)
	if !ok {
		return malformedPart("it does not start with its boundary")
	}
	for range partsMax {
		if tail, last := bytes.CutPrefix(rest, []byte("--")); last {
			if len(tail) > boundaryEndMax || strings.Trim(string(tail), "\r\n") != "" {
				return malformedPart("there is more after its last boundary")
			}
			return nil
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("\r\n")); !ok {
			return malformedPart("a boundary is not followed by a line end")
		}
		end := bytes.Index(rest, delimiter)
		if end < 0 {
			return malformedPart("the last boundary is missing")
		}
		part, ok := bytes.CutSuffix(rest[:end], []byte("\r\n"))
		if !ok {
			return malformedPart("a boundary does not stand on a line of its own")
		}
		if err := m.part(part); err != nil {
			return err
		}
		rest = rest[end+len(delimiter):]
	}
	return malformedPart("it has more than %d parts", partsMax)
}

// part reads one part: its header lines, an empty line, its content.
func (m *multiparts) part(b []byte) *InputError {
	var h partHeader
	for header := 0; ; {
		line, tail, ok := bytes.Cut(b, []byte("\r\n"))
		if header += len(line); !ok || header > partHeaderMax {
			return malformedPart("a part's header does not end within %d bytes", partHeaderMax)
		}
		b = tail
		if len(line) == 0 {
			break
		}
		key, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || !isToken(string(key)) || bytes.ContainsAny(value, "\r\n\x00") {
			return malformedPart("a part has the header line %s", show(string(line)))
		}
		if err := h.line(strings.ToLower(string(key)), strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return m.named(&h, b)
}

// partHeader is the three header lines of a part that readers heed.
type partHeader struct{ disposition, encoding, media string }

func (h *partHeader) line(key, value string) *InputError {
	var into *string
	switch key {
	case "content-disposition":
		into = &h.disposition
	case "content-transfer-encoding":
		into, value = &h.encoding, strings.ToLower(value)
	case "content-type":
		into = &h.media
	default:
		return nil
	}
	if *into != "" {
		return &InputError{ErrAmbiguous, "", "A part of the multipart body has two " + textproto.CanonicalMIMEHeaderKey(key) +
			" headers; send one."}
	}
	*into = value
	return nil
}

// named files a part under its name.
func (m *multiparts) named(h *partHeader, content []byte) *InputError {
	name, isFile, ok := parseDisposition(h.disposition)
	if !ok {
		return malformedPart("a part has the Content-Disposition %s; send form-data with a name, and a filename if it is a file",
			show(h.disposition))
	}
	field, fieldErr := m.form.wants([]byte(name))
	file, fileErr := m.filesNamed([]byte(name))
	switch {
	case field == "" && file == "" && fieldErr != nil:
		return fieldErr
	case field == "" && file == "" && fileErr != nil:
		return fileErr
	case field == "" && file == "":
		return nil
	case !asItIs(h, isFile):
		return malformedPart("the part %s is encoded or of a kind of its own; send it as it is", show(name))
	case isFile && file == "":
		return &InputError{ErrAmbiguous, "form." + field, fmt.Sprintf("form.%s is sent as a file; send it without a filename.",
			field)}
	case !isFile && field == "":
		return &InputError{
			ErrAmbiguous, "parts." + file,
			fmt.Sprintf("parts.%s is sent without a filename; send each file with one.", file),
		}
	case isFile:
		n, _ := m.files[file].(counted)
		m.files[file] = make(counted, len(n)+1)
		return nil
	}
	return m.form.set(field, content)
}

func (m *multiparts) filesNamed(name []byte) (string, *InputError) {
	t := texts{source: "parts", names: m.names}
	return t.wants(name)
}

// asItIs reports whether a part's content is its bytes. Of a field with another type than text/plain some readers
// make a file.
func asItIs(h *partHeader, isFile bool) bool {
	switch h.encoding {
	case "", "binary", "8bit", "7bit":
	default:
		return false
	}
	if isFile {
		return !strings.HasPrefix(strings.ToLower(h.media), "multipart/")
	}
	t, plain := parseContentType(h.media)
	utf8 := t.charset == "" || strings.EqualFold(t.charset, "utf-8") || strings.EqualFold(t.charset, "us-ascii")
	return h.media == "" || plain && t.kind == "text/plain" && utf8
}

// parseDisposition reads form-data with its name first and then a filename, plain, extended or both. Readers look for
// "name=" by patterns of their own, so that nothing else may stand there, nor a quote or backslash in a value.
func parseDisposition(s string) (name string, isFile, ok bool) {
	kind, rest, _ := strings.Cut(s, ";")
	if name, rest, ok = dispositionValue(rest, "name"); !ok || kind != "form-data" {
		return "", false, false
	}
	file, rest, plain := dispositionValue(rest, "filename")
	_, rest, extended := dispositionValue(rest, "filename*")
	isFile = plain || extended
	if rest != "" {
		return "", false, false
	}
	_, params, err := mime.ParseMediaType(s) // the paired check: the standard library reads the same
	seen, there := params["filename"]
	return name, isFile, err == nil && params["name"] == name && there == isFile && (extended || seen == file)
}

// dispositionValue takes the parameter from the front of s, with the semicolon after it. If it does not stand there,
// s is the rest.
func dispositionValue(s, param string) (value, rest string, ok bool) {
	value, ok = strings.CutPrefix(strings.TrimLeft(s, " \t"), param+"=")
	if !ok {
		return "", s, false
	}
	if inner, quoted := strings.CutPrefix(value, `"`); quoted {
		value, rest, ok = strings.Cut(inner, `"`)
		ok = ok && strings.IndexByte(value, '\\') < 0
	} else {
		end := strings.IndexFunc(value, func(r rune) bool { return r == ';' || r <= ' ' })
		if end < 0 {
			end = len(value)
		}
		value, rest = value[:end], value[end:]
		ok = all(value, func(c byte) bool { return alphanumeric(c) || strings.IndexByte("-_.%'", c) >= 0 })
	}
	rest = strings.TrimLeft(rest, " \t")
	if rest == "" {
		return value, "", ok
	}
	rest, more := strings.CutPrefix(rest, ";")
	return value, rest, ok && more && rest != ""
}
