package gateway_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// The fingerprint must tell requests apart that ask for other things.
func TestFingerprintTellsRequestsApart(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	idem := 0
	same := func(what, path, body1, body2 string, h1, h2 []string) {
		t.Helper()
		idem++
		k := []string{"Idempotency-Key", "k" + strconv.Itoa(idem)}
		require.Equal(t, 200, b.post(path, key, body1, append(k, h1...)...).StatusCode, what)
		r := b.post(path, key, body2, append(k, h2...)...)
		require.Equal(t, 422, r.StatusCode, "%s: replayed %q", what, r.Header.Get("Idempotent-Replayed"))
	}
	same("priced header", "/model", "", "", []string{"X-Model", "cheap"}, []string{"X-Model", "alike"})
	ct := []string{"Content-Type", "multipart/form-data; boundary=b"}
	same("unreadable multipart", "/plain", "--c\r\none", "--c\r\ntwo", ct, ct)
	same("header of the first part broken", "/plain", "--b\r\nx\r\n\r\none", "--b\r\nx\r\n\r\ntwo", ct, ct)
	same("multipart without boundary", "/plain", "one", "two", []string{"Content-Type", "multipart/form-data"},
		[]string{"Content-Type", "multipart/form-data"})
}

// In the control plane too the same key with another lease is another content.
func TestControlKeyWithAnotherLease(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	b.account("acme", 100*meter.Credit)
	k := []string{"Idempotency-Key", "r1"}
	require.Equal(t, 201, b.control("POST", "/v1/reservations", `{"account":"acme","credits":1,"lease_seconds":30}`, k...).StatusCode)
	require.Equal(t, 409, b.control("POST", "/v1/reservations", `{"account":"acme","credits":1,"lease_seconds":3600}`, k...).StatusCode)
}

// An answer of the largest size is stored with its head, which is not counted in ReplayMax.
func TestAnswerOfTheLargestSizeIsReplayed(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.backend.answer(200, strings.Repeat("x", 1<<20))
	require.Equal(t, 200, b.post("/plain", key, "", "Idempotency-Key", "a").StatusCode)
	require.Equal(t, 200, b.post("/plain", key, "", "Idempotency-Key", "a").StatusCode)
}
