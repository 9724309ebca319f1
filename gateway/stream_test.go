package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
)

func TestStreamSettlesBeforeItsEnd(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	next := make(chan string)
	b.backend.on(events(next))
	resp := b.open("/plain", key)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "2", resp.Header.Get("X-Credits-Reserved"))
	require.Equal(t, "no", resp.Header.Get("X-Accel-Buffering"))
	body := bufio.NewReader(resp.Body)
	next <- "data: one\n\n"
	next <- "data: two\n\n"
	one := make([]byte, len("data: one\n\n"))
	_, err := io.ReadFull(body, one)
	require.NoError(t, err, "an event arrives with the next one")
	require.Equal(t, "data: one\n\n", string(one))
	_, held := b.wallet("acme")
	require.Equal(t, 2*meter.Credit, held)
	close(next)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, "data: two\n\n", string(rest), "the last event waits for the charge")
	require.Equal(t, "2", resp.Trailer.Get("X-Credits-Charged"))
	require.Equal(t, "8", resp.Trailer.Get("X-Credits-Remaining"))
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held})
}

func TestStreamFaults(t *testing.T) {
	t.Parallel()
	t.Run("backend breaks off", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		b.backend.on(func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n")
		})
		resp := b.open("/plain", key)
		_, err := io.ReadAll(resp.Body)
		require.Error(t, err, "the client must not take it for whole")
		require.Eventually(t, func() bool {
			available, held := b.wallet("acme")
			return available == 10_000 && held == 0
		}, 20*time.Second, 5*time.Millisecond)
	})
	t.Run("client gone", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		next := make(chan string)
		b.backend.on(events(next))
		resp := b.open("/plain", key)
		next <- "data: one\n\n"
		require.NoError(t, resp.Body.Close())
		for range 20 {
			next <- strings.Repeat("data: more\n\n", 1000)
		}
		close(next)
		require.Eventually(t, func() bool {
			available, held := b.wallet("acme")
			return available == 8000 && held == 0
		}, 20*time.Second, 5*time.Millisecond, "the work was done, so it is charged")
	})
	t.Run("not settled", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		b.commit = func(meter.Settle) error { return meter.ErrUnavailable }
		b.journal.err = errors.New("disk full")
		next := make(chan string)
		b.backend.on(events(next))
		resp := b.open("/plain", key)
		next <- "data: one\n\n"
		close(next)
		_, err := io.ReadAll(resp.Body)
		require.Error(t, err)
	})
}

// events answers with a server-sent event for each string, until the channel is closed.
func events(next <-chan string) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/event-stream")
		ctx.Response.ImmediateHeaderFlush = true
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			for s := range next {
				_, _ = w.WriteString(s)
				_ = w.Flush()
			}
		})
	}
}

// open returns a response whose body is still to be read.
func (b *bundle) open(path, key string) *reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.data+path, http.NoBody)
	require.NoError(b.t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := b.client.Do(req)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = resp.Body.Close() })
	return &reply{Response: resp}
}

func TestResponseAboveTheBuffer(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.ResponseBufferMax = 1 << 20 })
	key := b.account("acme", 10*meter.Credit)
	big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB
	for _, chunked := range []bool{false, true} {
		b.backend.on(func(ctx *fasthttp.RequestCtx) {
			if chunked {
				ctx.SetBodyStream(strings.NewReader(big), -1)
				return
			}
			ctx.SetBodyString(big)
		})
		r := b.post("/plain", key, "")
		require.Equal(t, 200, r.StatusCode)
		require.NoError(t, r.err)
		require.Equal(t, big, string(r.body))
		require.Equal(t, "2", r.Trailer.Get("X-Credits-Charged"))
		// Where units are counted in it, it cannot be read, and nothing is charged.
		r = b.post("/studio/apply", key, twoPhotos)
		require.Equal(t, 502, r.StatusCode)
		require.Equal(t, "0", r.Header.Get("X-Credits-Charged"))
	}
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{6000, 0}, [2]meter.Credits{available, held})
}

// While a charge is not acknowledged the client lacks the end of the body, not only the terminating chunk.
func TestStreamIsHeldBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"text/event-stream", "image/png"} {
		b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.ResponseBufferMax = 1024 })
		key := b.account("acme", 10*meter.Credit)
		image := strings.Repeat("x", 100_000)
		b.backend.on(func(ctx *fasthttp.RequestCtx) {
			ctx.SetContentType(kind)
			ctx.SetBodyString(image)
		})
		asked, answer := make(chan struct{}), make(chan struct{})
		b.commit = func(meter.Settle) error { close(asked); <-answer; return meter.ErrUnavailable }
		b.journal.err = errors.New("disk full")
		resp := b.open("/plain", key)
		<-asked
		got := make(chan int)
		go func() { n, _ := io.ReadFull(resp.Body, make([]byte, len(image))); got <- n }()
		n := 0
		select {
		case n = <-got:
		case <-time.After(time.Second):
		}
		require.Less(t, n, len(image), "%s: the client has all %d bytes while the commit is unanswered", kind, n)
		close(answer)
		if n == 0 {
			<-got
		}
	}
}

// A client that lets the backend's deadline pass by not reading is charged all the same.
func TestSlowReaderPays(t *testing.T) {
	t.Parallel()
	const timeout = 6 * time.Second // half of it must go by in the client's pause, however slow the machine begins
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.UpstreamTimeout = timeout })
	key := b.account("acme", 10*meter.Credit)
	const size = 24 << 20
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/event-stream")
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) { _, _ = w.WriteString(strings.Repeat("x", size)) })
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(256<<10))
	_, _ = io.WriteString(c, lines("POST /plain HTTP/1.1\nHost: x\nAuthorization: Bearer "+key+"\nContent-Length: 0\n\n"))
	start, total, buf := time.Now(), 0, make([]byte, 64<<10)
	for total < 1<<20 { // some at once, as fast as it comes
		n, err := c.Read(buf)
		require.NoError(t, err)
		total += n
	}
	<-time.After(timeout + timeout/30 - time.Since(start)) // then a pause until the backend's time is over
	for err == nil {
		var n int
		require.NoError(t, c.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
		n, err = c.Read(buf)
		total += n
	}
	require.Eventually(t, func() bool { _, held := b.wallet("acme"); return held == 0 }, 5*time.Second, 20*time.Millisecond)
	available, _ := b.wallet("acme")
	require.Equal(t, meter.Credits(8_000), available, "client took %d of %d bytes and was charged nothing", total, size)
}

// HTTP/1.0 knows no chunks.
func TestStreamToHTTP10(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/event-stream")
		ctx.SetBodyString("data: x\n\n")
	})
	r := b.raw(lines("POST /plain HTTP/1.0\nHost: x\nAuthorization: Bearer " + key + "\nContent-Length: 0\n\n"))
	require.Empty(t, r.TransferEncoding)
}

// What can neither be buffered nor sent in chunks is not charged.
func TestLargeResponseToHTTP10(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"), func(o *gateway.Options) { o.ResponseBufferMax = 1024 })
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(200, strings.Repeat("x", 2000))
	r := b.raw(lines("POST /plain HTTP/1.0\nHost: x\nAuthorization: Bearer " + key + "\nContent-Length: 0\n\n"))
	require.Equal(t, 502, r.StatusCode)
	require.Equal(t, "0", r.Header.Get("X-Credits-Charged"))
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
}
