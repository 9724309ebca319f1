package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"

	"creditgate/meter"
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
	lines := x.ctx.Request.Header.PeekAll("Idempotency-Key")
	if len(lines) == 0 {
		return nil
	}
	key, ok := parseIdempotencyKey(string(lines[0]))
	if !ok || len(lines) > 1 {
		return &problem{code: codeInvalid, param: "Idempotency-Key", detail: "Idempotency-Key must be sent once, as a " +
			"quoted string or a bare token of 1 to " + strconv.Itoa(idempotencyKeyMax) + " characters"}
	}
	sum := sha256.Sum256([]byte(x.who.Account + "\x00" + key))
	k := &meter.IdempotencyKey{Fingerprint: x.fingerprint()}
	copy(k.Hash[:], sum[:])
	x.key = k
	return nil
}

// fingerprint tells requests apart that carry the same key: operation, path, query, price, and the content.
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
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(x.quote.Credits)))
	body := x.out.Body()
	canonicalContent(field, string(x.ctx.Request.Header.ContentType()), body[:min(len(body), fingerprintMax)])
	if len(body) > fingerprintMax {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(body))))
	}
	copy(f[:], h.Sum(nil))
	return f
}

// canonicalContent feeds what the body says, not how it is wrapped: clients choose a new multipart boundary for
// each try, so parts are taken one by one. Every other body is taken as it is.
func canonicalContent(field func([]byte), contentType string, body []byte) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		field([]byte(contentType))
		field(body)
		return
	}
	field([]byte(kind))
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			return // the end, or the cut at fingerprintMax
		}
		content, _ := io.ReadAll(part) // from memory; a cut part counts as far as it goes
		field([]byte(part.FormName()))
		field([]byte(part.FileName()))
		field([]byte(part.Header.Get("Content-Type")))
		field(content)
	}
}
