package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"mime/multipart"
	"strconv"
	"strings"

	"creditgate/meter"
	"creditgate/meter/policy"
)

const (
	// idempotencyKeyMax is the longest Idempotency-Key.
	idempotencyKeyMax = 255
	// fingerprintMax is how much of a body distinguishes requests; beyond it, its length does.
	fingerprintMax = 1 << 20
)

// parseIdempotencyKey reads a structured-field string ("…" with \" and \\) or a bare token.
func parseIdempotencyKey(s string) (string, bool) {
	if s == "" || len(s) > idempotencyKeyMax+2 {
		return "", false
	}
	if s[0] != '"' {
		return s, len(s) <= idempotencyKeyMax && bareKey(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			key := b.String()
			return key, i == len(s)-1 && key != "" && len(key) <= idempotencyKeyMax
		case c == '\\':
			i++
			if i == len(s) || (s[i] != '"' && s[i] != '\\') {
				return "", false
			}
			b.WriteByte(s[i])
		case c < ' ' || c >= 0x7f:
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

func bareKey(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return true
}

// readKey takes the caller's Idempotency-Key, if there is one, down to what is compared: whose it is, and for
// which request.
func (x *exchange) readKey() *problem {
	if x.head.idempotencyKey == nil {
		return nil
	}
	key, ok := parseIdempotencyKey(string(x.head.idempotencyKey))
	if !ok {
		return &problem{code: codeInvalid, param: "Idempotency-Key", detail: "Idempotency-Key must be a " +
			"quoted string or a bare token of 1 to " + strconv.Itoa(idempotencyKeyMax) + " characters"}
	}
	sum := sha256.Sum256([]byte(x.who.Account + "\x00" + key))
	k := &meter.IdempotencyKey{Fingerprint: x.fingerprint()}
	copy(k.Hash[:], sum[:])
	x.key = k
	return nil
}

// fingerprint tells requests apart that carry the same key: operation, path, query, units with all that the price is
// read from, headers among it, and the content. The price itself is not in it: a request that is repeated after the
// price list was replaced is the same one, and was paid.
func (x *exchange) fingerprint() (f [16]byte) {
	h := sha256.New()
	field := func(b []byte) { // length first, so that fields cannot run into one another
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
		_, _ = h.Write(b)
	}
	field([]byte(x.op.Name))
	field([]byte(x.method))
	field([]byte(x.path))
	field([]byte(x.query))
	_, _ = h.Write(binary.LittleEndian.AppendUint32(nil, x.quote.Units))
	field(x.view.AppendPriced(nil))
	body := x.out.Body()
	cut := len(body) > fingerprintMax
	canonicalContent(field, string(x.out.Header.ContentType()), body[:min(len(body), fingerprintMax)], cut)
	if cut {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(body))))
	}
	copy(f[:], h.Sum(nil))
	return f
}

// canonicalContent feeds what the body says, not how it is wrapped: clients choose a new multipart boundary for
// each try, so parts are taken one by one. Every other body is taken as it is, and so is a multipart body that
// cannot be read to its end: what was not understood may be what differs.
func canonicalContent(field func([]byte), contentType string, body []byte, cut bool) {
	if boundary, ok := policy.MultipartBoundary(contentType); ok {
		if said, ok := partsOf(body, boundary, cut); ok {
			for _, b := range said {
				field(b)
			}
			return
		}
	}
	field([]byte(contentType))
	field(body)
}

// partsOf is what stands before the first boundary, and the header and content of each part. A cut body counts as
// far as it goes.
func partsOf(body []byte, boundary string, cut bool) (said [][]byte, ok bool) {
	before, _, _ := bytes.Cut(body, []byte("--"+boundary))
	said = [][]byte{[]byte("parts"), before}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			return said, err == io.EOF || cut && brokeOff(err) //nolint:errorlint // wrapped, it is no proper end
		}
		content, err := io.ReadAll(part) // from memory
		if err != nil && !(cut && brokeOff(err)) {
			return nil, false
		}
		h := part.Header
		said = append(said, []byte(h.Get("Content-Disposition")), []byte(h.Get("Content-Type")),
			[]byte(h.Get("Content-Transfer-Encoding")), content)
	}
}

func brokeOff(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
