package policy

import (
	"bytes"
	"fmt"
	"mime"
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
	var disposition, encoding, nested string
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
		if !ok || bytes.ContainsAny(key, " \t\r\n") || bytes.ContainsAny(value, "\r\n\x00") {
			return malformedPart("a part has the header line %s", show(string(line)))
		}
		text := strings.TrimSpace(string(value))
		switch strings.ToLower(string(key)) {
		case "content-disposition":
			if disposition != "" {
				return &InputError{ErrAmbiguous, "", "A part of the multipart body has two Content-Disposition headers; send one."}
			}
			disposition = text
		case "content-transfer-encoding":
			encoding = strings.ToLower(text)
		case "content-type":
			nested = strings.ToLower(text)
		}
	}
	return m.named(disposition, encoding, nested, b)
}

// named files a part under its name.
func (m *multiparts) named(disposition, encoding, nested string, content []byte) *InputError {
	kind, params, err := mime.ParseMediaType(disposition)
	name, hasName := params["name"]
	if err != nil || kind != "form-data" || !hasName || strings.Contains(strings.ToLower(disposition),
		"name*") && !onlyFilename(disposition) {
		return malformedPart("a part has the Content-Disposition %s", show(disposition))
	}
	_, isFile := params["filename"]
	field, fieldErr := m.form.wants([]byte(name))
	file, fileErr := m.filesNamed([]byte(name))
	switch {
	case field == "" && file == "" && fieldErr != nil:
		return fieldErr
	case field == "" && file == "" && fileErr != nil:
		return fileErr
	case field == "" && file == "":
		return nil
	case encoding != "" && encoding != "binary" && encoding != "8bit" && encoding != "7bit", strings.HasPrefix(nested,
		"multipart/"):
		return malformedPart("the part %s is encoded or nested; send it as it is", show(name))
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

// onlyFilename reports whether the one extended parameter is filename*, which browsers send; name* is decoded by
// some readers and unknown to others.
func onlyFilename(disposition string) bool {
	rest := strings.ReplaceAll(strings.ToLower(disposition), "filename*", "")
	return !strings.Contains(rest, "name*")
}
