package gateway_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// One failed look-up of anybody's key does not make other entries trusted beyond their TTL.
func TestRevokedKeyAfterOneFailedLookup(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.KeyTTL = time.Second })
	key := b.account("acme", 10*meter.Credit)
	require.Equal(t, 200, b.post("/plain", key, "").StatusCode)
	require.NoError(t, b.house.RevokeKey(t.Context(), "acme", "k-acme", ""))
	<-time.After(2 * time.Second) // well beyond the TTL
	b.house.fail(errors.New("one slow query"))
	b.post("/plain", "sk-somebody-else", "")
	b.house.fail(nil)
	require.Equal(t, 401, b.post("/plain", key, "").StatusCode, "revoked two TTLs ago; Postgres answers")
}

// No key in a log, at any level.
func TestNoKeyInLogs(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.Log = zerolog.New(&log) })
	b.raw(lines("POST /plain HTTP/1.1\nHost: x\nAuthorization: Bearer sk-very-secret\x01\nContent-Length: 0\n\n"))
	b.stop()
	require.NotContains(t, log.String(), "sk-very-secret")
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
