package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
)

const (
	twoPhotos = `{"photos":[1,2],"background":"#ffffff"}`
	twoDone   = `{"results":[{"status":"ok"},{"status":"ok"}]}`
)

// short makes the backend's time short, so that a fault is over soon.
func short(o *gateway.Options) { o.UpstreamTimeout = 2 * time.Second }

// TestBackendFaults is the fault table over the backend's side: whatever it does, nothing is charged, nothing stays
// held, and the client gets a problem with the right code.
func TestBackendFaults(t *testing.T) {
	t.Parallel()
	b := setup(t, short)
	key := b.account("acme", 10*meter.Credit)
	for name, c := range map[string]struct {
		handle  fasthttp.RequestHandler
		status  int
		code    string
		noRetry bool
	}{
		"reset before the head": {func(ctx *fasthttp.RequestCtx) { hangUp(ctx, "") }, 502, "upstream-failed", false},
		"half a head": {func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nConte")
		}, 502, "upstream-failed", false},
		"not HTTP": {func(ctx *fasthttp.RequestCtx) { hangUp(ctx, "SSH-2.0-x\r\n\r\n") }, 502, "upstream-failed", false},
		"half a body": {func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+twoDone)
		}, 502, "upstream-failed", false},
		"half the chunks": {func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"res\r\n")
		}, 502, "upstream-failed", false},
		"another protocol": {func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
		}, 502, "upstream-failed", false},
		"encoded although told not to": {func(ctx *fasthttp.RequestCtx) {
			ctx.Response.Header.Set("Content-Encoding", "gzip")
			ctx.SetBodyString(twoDone)
		}, 502, "upstream-uncountable", true},
		"a head beyond headers_max": {func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: "+strings.Repeat("x", 40<<10)+"\r\n\r\n{}")
		}, 502, "upstream-failed", true},
		"too slow": {func(ctx *fasthttp.RequestCtx) { hang(ctx, "") }, 504, "upstream-timeout", false},
		"too slow in the body": {func(ctx *fasthttp.RequestCtx) {
			hang(ctx, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
		}, 504, "upstream-timeout", false},
	} {
		b.backend.on(c.handle)
		before := b.backend.calls.Load()
		r := b.post("/studio/apply", key, twoPhotos)
		require.Equal(t, c.status, r.StatusCode, "%s: %s", name, r.body)
		require.Equal(t, c.code, r.json(t)["code"], name)
		require.Equal(t, strconv.FormatBool(!c.noRetry), r.Header.Get("X-Should-Retry"), name)
		require.Equal(t, "0", r.Header.Get("X-Credits-Charged"), name)
		require.Equal(t, "10", r.Header.Get("X-Credits-Remaining"), name)
		require.Equal(t, before+1, b.backend.calls.Load(), "%s: forwarded once", name)
		available, held := b.wallet("acme")
		require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held}, name)
		// The same where nothing is counted in the response: a cut one is not a delivered one.
		if c.code == "upstream-failed" {
			require.Equal(t, c.status, b.post("/plain", key, "").StatusCode, name)
		}
	}
}

// hangUp writes raw bytes and cuts the connection.
func hangUp(ctx *fasthttp.RequestCtx, raw string) {
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		_, _ = io.WriteString(c, raw)
		_ = c.Close()
	})
}

// hang writes raw bytes and then nothing until the gateway gives up.
func hang(ctx *fasthttp.RequestCtx, raw string) {
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		_, _ = io.WriteString(c, raw)
		_, _ = io.Copy(io.Discard, c)
	})
}

func TestRefusedDialGoesToAnotherBackend(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	dead := "http://" + gone.Addr().String()
	b := setup(t, func(o *gateway.Options) { o.Upstreams = append(o.Upstreams, dead) })
	key := b.account("acme", 10*meter.Credit)
	for range 4 {
		require.Equal(t, 200, b.post("/plain", key, "").StatusCode)
	}
	require.EqualValues(t, 4, b.backend.calls.Load())

	alone := setup(t, func(o *gateway.Options) { o.Upstreams = []string{dead} })
	key = alone.account("acme", 10*meter.Credit)
	r := alone.post("/plain", key, "")
	require.Equal(t, 502, r.StatusCode)
	require.Equal(t, "upstream-unreachable", r.json(t)["code"])
	require.Equal(t, "true", r.Header.Get("X-Should-Retry"), "nothing was sent, so a retry is safe")
	available, held := alone.wallet("acme")
	require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
}

func TestStaleConnectionIsNoticedBeforeAByteIsSent(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.UpstreamIdle = time.Minute })
	key := b.account("acme", 10*meter.Credit)
	closed := make(chan struct{}, 8)
	b.backend.on(func(ctx *fasthttp.RequestCtx) { // answers as if it kept the connection, then closes it
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			_ = c.Close()
			closed <- struct{}{}
		})
	})
	for range 4 {
		r := b.post("/plain", key, "")
		require.Equal(t, 200, r.StatusCode, "%s", r.body)
		<-closed
	}
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) {
		o.BreakerRequests, o.BreakerRatio, o.BreakerPause = 4, 0.5, 3*time.Second
	})
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(422, "no")
	for range 10 {
		require.Equal(t, 422, b.post("/plain", key, "").StatusCode, "a 4xx is the client's doing")
	}
	b.backend.answer(503, "no")
	require.Eventually(t, func() bool {
		return b.post("/plain", key, "").StatusCode == http.StatusServiceUnavailable && b.breaker() == 2
	}, 10*time.Second, time.Millisecond)
	calls := b.backend.calls.Load()
	reserved := 0
	b.reserve = func(meter.Reserve) error { reserved++; return nil }
	r := b.post("/plain", key, "")
	require.Equal(t, 503, r.StatusCode)
	require.Equal(t, "upstream-unavailable", r.json(t)["code"])
	require.Equal(t, "3", r.Header.Get("Retry-After"))
	require.Equal(t, calls, b.backend.calls.Load())
	require.Zero(t, reserved, "the breaker is asked before anything is reserved")

	b.backend.answer(200, "yes")
	require.Eventually(t, func() bool {
		return b.post("/plain", key, "").StatusCode == http.StatusOK
	}, 20*time.Second, 50*time.Millisecond)
	require.Eventually(t, func() bool { b.post("/plain", key, ""); return b.breaker() == 0 }, 20*time.Second, time.Millisecond)
}

func (b *bundle) breaker() float64 { return b.metric("creditgate_breaker_state") }

// metric is the value of a counter or gauge with one series.
func (b *bundle) metric(name string) float64 {
	families, err := b.reg.Gather()
	require.NoError(b.t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestMeterAway is the fault table over the meter's side.
func TestMeterAway(t *testing.T) {
	t.Parallel()
	away := errors.Join(meter.ErrUnavailable, errors.New("connection refused"))
	t.Run("at reserve", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		b.reserve = func(meter.Reserve) error { return away }
		r := b.post("/plain", key, "")
		require.Equal(t, 503, r.StatusCode)
		require.Equal(t, "metering-unavailable", r.json(t)["code"])
		require.NotEmpty(t, r.Header.Get("Retry-After"))
		require.Zero(t, b.backend.calls.Load(), "never free service")
	})
	t.Run("at commit", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		b.commit = func(meter.Settle) error { return away }
		b.backend.answer(200, twoDone)
		r := b.post("/studio/apply", key, twoPhotos)
		require.Equal(t, 200, r.StatusCode)
		require.JSONEq(t, twoDone, string(r.body))
		require.Equal(t, "2", r.Header.Get("X-Credits-Charged"))
		require.Empty(t, r.Header.Get("X-Credits-Remaining"), "not known")
		kept := b.journal.entries()
		require.Len(t, kept, 1)
		require.Equal(t, r.Header.Get("X-Credits-Reservation"), kept[0].ID.String())
		require.Equal(t, [2]meter.Credits{2000, 2000}, [2]meter.Credits{kept[0].Amount, kept[0].Reserved})
		require.Equal(t, "apply", kept[0].Note.Operation)
		for range 3 { // replayed more than once, charged once
			d, err := b.engine.Commit(t.Context(), kept[0])
			require.NoError(t, err)
			require.Equal(t, meter.CodeOK, d.Code)
		}
		available, held := b.wallet("acme")
		require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held})
	})
	t.Run("at commit, journal full", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		key := b.account("acme", 10*meter.Credit)
		b.commit = func(meter.Settle) error { return away }
		b.journal.err = errors.New("journal is full")
		b.backend.on(func(ctx *fasthttp.RequestCtx) {
			ctx.Response.Header.Set("Etag", "secret")
			ctx.SetBodyString(twoDone)
		})
		r := b.post("/studio/apply", key, twoPhotos)
		require.Equal(t, 503, r.StatusCode)
		require.Equal(t, "metering-unavailable", r.json(t)["code"])
		require.NotContains(t, string(r.body), "results")
		require.Empty(t, r.Header.Get("ETag"))
		require.Equal(t, "false", r.Header.Get("X-Should-Retry"), "a repeat may be charged again")
		require.Empty(t, r.Header.Get("Retry-After"))
		r = b.post("/studio/apply", key, twoPhotos, "Idempotency-Key", "k")
		require.Equal(t, 503, r.StatusCode)
		require.Equal(t, "true", r.Header.Get("X-Should-Retry"), "the key finds out whether it was charged")
		require.NotEmpty(t, r.Header.Get("Retry-After"))
	})
}

// TestRedisPausedAndKilledAtCommit is the real thing: the process stops between reserve and commit.
func TestRedisPausedAndKilledAtCommit(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*bundle) (start func()){
		"paused": func(b *bundle) func() {
			require.NoError(b.t, b.redis.Pause())
			return func() { require.NoError(b.t, b.redis.Resume()) }
		},
		"killed": func(b *bundle) func() {
			require.NoError(b.t, b.redis.Kill())
			return func() { require.NoError(b.t, b.redis.Restart(b.t.Context())) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(o *gateway.Options) { o.UpstreamTimeout = 10 * time.Second })
			key := b.account("acme", 10*meter.Credit)
			var start func()
			b.backend.on(func(ctx *fasthttp.RequestCtx) {
				start = stop(b)
				ctx.SetBodyString(twoDone)
			})
			r := b.post("/studio/apply", key, twoPhotos)
			require.Equal(t, 200, r.StatusCode, "%s", r.body)
			require.JSONEq(t, twoDone, string(r.body))
			kept := b.journal.entries()
			require.Len(t, kept, 1)
			start()
			require.Eventually(t, func() bool {
				d, err := b.engine.Commit(t.Context(), kept[0])
				return err == nil && d.Code == meter.CodeOK
			}, 20*time.Second, 50*time.Millisecond)
			available, held := b.wallet("acme")
			require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held}, "settled, once")
		})
	}
}

// TestPanic: a bug in one request is a 500 for that request, charges nothing, and harms no other.
func TestPanic(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.reserve = func(meter.Reserve) error { panic("planted") }
	r := b.post("/plain", key, "")
	require.Equal(t, 500, r.StatusCode)
	require.Equal(t, "internal-error", r.json(t)["code"])
	b.reserve = nil
	b.backend.on(func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("secret") })
	b.commit = func(meter.Settle) error { panic("planted") }
	r = b.post("/plain", key, "")
	require.Equal(t, 500, r.StatusCode)
	require.NotContains(t, string(r.body), "secret")
	require.NotContains(t, string(r.body), "nothing was charged")
	require.Equal(t, "false", r.Header.Get("X-Should-Retry"), "a repeat may be charged again")
	b.commit = nil
	require.Equal(t, 200, b.post("/plain", key, "").StatusCode)
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{6000, 2000}, [2]meter.Credits{available, held},
		"whether the commit happened is not known here, so its hold is left to the lease")
}

// TestClientGone: at every point the client's going away changes nothing.
func TestClientGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	gone := make(chan struct{})
	for name, c := range map[string]struct {
		handle  fasthttp.RequestHandler
		charged meter.Credits
	}{
		"before the head": {func(ctx *fasthttp.RequestCtx) {
			<-gone
			ctx.SetBodyString(`{"data":[1]}`)
		}, 1000},
		"and the backend fails": {func(ctx *fasthttp.RequestCtx) {
			<-gone
			ctx.SetStatusCode(500)
		}, 0},
	} {
		available, _ := b.wallet("acme")
		b.backend.on(c.handle)
		calls := b.backend.calls.Load()
		conn, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST /v1/images/generations HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\n"+
			"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
		require.NoError(t, err)
		require.Eventually(t, func() bool { return b.backend.calls.Load() > calls }, 20*time.Second, time.Millisecond)
		require.NoError(t, conn.Close())
		gone <- struct{}{}
		require.Eventually(t, func() bool {
			now, held := b.wallet("acme")
			return held == 0 && now == available-c.charged
		}, 20*time.Second, 5*time.Millisecond, name)
	}
}

// TestUndeliveredIsCounted: charged, but the client was gone before it had the whole response.
func TestUndeliveredIsCounted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	gone := make(chan struct{})
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		<-gone
		ctx.SetBody(make([]byte, 8<<20)) // more than the kernel takes on trust
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\nContent-Length: 0\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
	require.NoError(t, conn.Close())
	close(gone)
	require.Eventually(t, func() bool { return b.metric("creditgate_undelivered_total") == 1 }, 20*time.Second, time.Millisecond)
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held})
}

func TestShutdownSettlesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	proceed := make(chan struct{})
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		<-proceed
		ctx.SetBodyString("done")
	})
	answer := make(chan *reply, 1)
	go func() {
		r, err := b.try(http.MethodPost, b.data+"/plain", key, "")
		if err != nil {
			r = nil
		}
		answer <- r
	}()
	require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		down <- b.gateway.Shutdown(ctx)
	}()
	require.Eventually(t, func() bool {
		return b.control("GET", "/readyz", "").StatusCode == http.StatusServiceUnavailable
	}, 20*time.Second, time.Millisecond)
	close(proceed)
	r := <-answer
	require.NotNil(t, r)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "2", r.Header.Get("X-Credits-Charged"))
	require.NoError(t, <-down)
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(200, twoDone)
	require.Equal(t, 200, b.post("/studio/apply", key, twoPhotos).StatusCode)
	require.Equal(t, 402, b.post("/studio/apply", key, `{"photos":[1,2,3,4,5,6,7,8,9]}`).StatusCode)
	r := b.do(http.MethodGet, b.admin+"/metrics", "", "")
	require.Equal(t, 200, r.StatusCode)
	for _, want := range []string{
		`creditgate_requests_total{operation="apply",outcome="committed"} 1`,
		`creditgate_requests_total{operation="apply",outcome="insufficient-credits"} 1`,
		`creditgate_request_duration_seconds_count{operation="apply"} 2`,
		`creditgate_overhead_seconds_count 2`, `creditgate_breaker_state{`, `creditgate_requests_in_flight 0`,
	} {
		require.Contains(t, string(r.body), want)
	}
	require.NotContains(t, string(r.body), "acme", "accounts are no labels")
}

// TestOurLimitIsNotTheBackendsOutage: a request that found no free connection says nothing about the backend.
func TestOurLimitIsNotTheBackendsOutage(t *testing.T) {
	t.Parallel()
	log := &syncBuffer{}
	b := setup(t, func(o *gateway.Options) { o.Log, o.UpstreamConns = zerolog.New(log), 1 })
	key := b.account("acme", 10*meter.Credit)
	proceed := make(chan struct{})
	b.backend.on(func(*fasthttp.RequestCtx) { <-proceed })
	first := make(chan int, 1)
	go func() {
		r, err := b.try("POST", b.data+"/plain", key, "")
		if err != nil {
			first <- 0
			return
		}
		first <- r.StatusCode
	}()
	require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
	r := b.post("/plain", key, "")
	close(proceed)
	require.Equal(t, 503, r.StatusCode, "%s", r.body)
	require.Equal(t, "upstream-unavailable", r.json(t)["code"])
	require.Equal(t, 200, <-first)
	require.NotContains(t, log.String(), "The backend is away")
}
