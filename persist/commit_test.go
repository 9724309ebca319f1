package persist_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// commitEater passes a Postgres connection on until it sees a COMMIT: that still reaches the server, its answer
// never the client.
type commitEater struct {
	listener net.Listener
	server   string
	left     atomic.Int32 // answers to eat
	eaten    atomic.Int32
}

func newCommitEater(t *testing.T, dbURL string) (proxied string, eater *commitEater) {
	t.Helper()
	u, err := url.Parse(dbURL)
	require.NoError(t, err)
	eater = &commitEater{server: u.Host}
	eater.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			client, err := eater.listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() { eater.serve(client) })
		}
	})
	t.Cleanup(func() { _ = eater.listener.Close(); open.Wait() })
	u.Host = eater.listener.Addr().String()
	return u.String(), eater
}

func (e *commitEater) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", e.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var eating atomic.Bool
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		b := make([]byte, 1<<16)
		for {
			n, err := server.Read(b)
			if eating.Load() && n > 0 { // the server has committed
				e.eaten.Add(1)
				_ = client.Close()
				return
			}
			if _, werr := client.Write(b[:n]); err != nil || werr != nil {
				_ = client.Close()
				return
			}
		}
	}()
	b := make([]byte, 1<<16)
	for {
		n, err := client.Read(b)
		if bytes.Contains(b[:n], []byte("commit\x00")) && e.left.Add(-1) >= 0 {
			eating.Store(true)
		}
		if _, werr := server.Write(b[:n]); err != nil || werr != nil {
			break
		}
	}
	if conn, ok := server.(*net.TCPConn); ok {
		_ = conn.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, client)
	<-answered
}

func TestCommitWithoutAnAnswerIsNotRepeated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grants := map[string]meter.ID{"ada": b.addAccount(t, "ada")}
	b.bookBatches(t, grants, 12)
	proxied, eater := newCommitEater(t, b.url)
	direct := b.store
	b.store = persisttest.Open(t, proxied, layout)
	eater.left.Store(3)
	b.startFlusher(t, persist.FlushOptions{})
	b.store = direct
	b.awaitFlushed(t)
	require.NotZero(t, eater.eaten.Load(), "the test must have lost an answer")
	b.requireExactlyOnce(t)
}

// A store whose Postgres is away says so, and works again when it is back.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server, dbURL := persisttest.Private(t)
	b := setupOn(t, dbURL)
	b.putAccount(t, "ada")
	require.NoError(t, server.Kill())
	_, _, err := b.store.Account(t.Context(), "ada")
	require.ErrorIs(t, err, persist.ErrUnavailable)
	_, err = b.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: 1, Ref: "order-1"})
	require.ErrorIs(t, err, persist.ErrUnavailable)
	require.Zero(t, b.account("ada").Seq, "nothing reaches Redis that Postgres does not have")
	away, err := persist.Open(context.Background(), dbURL, layout, nil)
	require.NoError(t, err, "a gateway starts without Postgres")
	away.Close()

	require.NoError(t, server.Restart(t.Context()))
	b.addGrant(t, "ada", "order-1", meter.Credit)
	b.flush(t)
	b.requireNoDrift(t)
}
