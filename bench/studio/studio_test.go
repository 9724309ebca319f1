package studio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Both end late or never by fasthttp's design: its clock, and a pool's cleaner in its ten-second sleep.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// running is a studio behind a real listener.
type running struct {
	*Studio
	t      *testing.T
	url    string
	client *http.Client
}

func start(t *testing.T) running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := New(Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.NoError(t, <-served)
	})
	return running{Studio: s, t: t, url: "http://" + ln.Addr().String(), client: client}
}

// post sends JSON (or bytes as they are) with headers given as pairs, and reads a JSON answer.
func (r running) post(path string, body any, headers ...string) (status int, answer map[string]any) {
	r.t.Helper()
	b, isBytes := body.([]byte)
	if !isBytes {
		var err error
		b, err = json.Marshal(body)
		require.NoError(r.t, err)
	}
	status, b, err := r.send(r.t.Context(), path, b, headers...)
	require.NoError(r.t, err)
	require.NoError(r.t, json.Unmarshal(b, &answer), string(b))
	return status, answer
}

func (r running) send(ctx context.Context, path string, body []byte, headers ...string) (status int, answer []byte, err error) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, bytes.NewReader(body))
	require.NoError(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// errorOf returns code and message of an error answer, which has OpenAI's shape on every route.
func errorOf(t *testing.T, answer map[string]any) (code, message string) {
	t.Helper()
	e, ok := answer["error"].(map[string]any)
	require.True(t, ok, "%v", answer)
	require.Contains(t, e, "type")
	require.Contains(t, e, "param")
	return e["code"].(string), e["message"].(string)
}

func TestRoutesAndStats(t *testing.T) {
	t.Parallel()
	r := start(t)
	status, answer := r.post("/nowhere", map[string]any{})
	require.Equal(t, 404, status)
	code, message := errorOf(t, answer)
	require.Equal(t, "not_found", code)
	require.Contains(t, message, "POST /nowhere")

	status, answer = r.post("/studio/report", map[string]any{"id": "p1", "reason": "a blue hair"})
	require.Equal(t, 202, status)
	again, same := r.post("/studio/report", map[string]any{"id": "p1", "reason": "a blue hair"})
	require.Equal(t, 202, again)
	require.Equal(t, answer, same)
	status, _ = r.post("/studio/report", map[string]any{})
	require.Equal(t, 400, status)

	status, answer = r.post("/studio/revert", map[string]any{"photos": []any{map[string]any{"id": "a"}, map[string]any{"id": "b"}}},
		headerFailItems, "b")
	require.Equal(t, 200, status)
	require.Equal(t, "ok", resultsOf(t, answer)[0]["status"])
	require.Equal(t, "failed", resultsOf(t, answer)[1]["status"])
	status, _ = r.post("/studio/revert", map[string]any{})
	require.Equal(t, 400, status)

	require.EqualValues(t, 3, r.Calls("POST /studio/report"))
	require.EqualValues(t, 2, r.Calls("POST /studio/revert"))
	require.EqualValues(t, 1, r.Calls("other"))
	require.Zero(t, r.Calls("POST /studio/apply"))
	resp, err := r.client.Get(r.url + "/studio/stats")
	require.NoError(t, err)
	defer resp.Body.Close()
	var stats struct {
		Calls map[string]int64 `json:"calls"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&stats))
	require.Equal(t, r.Stats(), stats.Calls)
}

func TestBadSteeringIs400(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, h := range [][2]string{
		{headerLatency, "soon"},
		{headerLatency, "-1s"},
		{headerLatency, "11m"},
		{headerLatency, "99999999999"},
		{headerFailRate, "2"},
		{headerFailRate, "-0.1"},
		{headerFailRate, "NaN"},
		{headerFailRate, "half"},
		{headerFailItems, "-1"},
		{headerFailItems, ","},
		{headerHang, "maybe"},
		{headerReset, "2"},
	} {
		status, answer := r.post("/studio/report", map[string]any{"id": "p"}, h[0], h[1])
		require.Equal(t, 400, status, h)
		code, message := errorOf(t, answer)
		require.Equal(t, "bad_steering", code)
		require.Contains(t, message, h[0]+` is "`+h[1]+`", must be `)
	}
}

func TestSteeredFailureAndLatency(t *testing.T) {
	t.Parallel()
	r := start(t)
	report := map[string]any{"id": "p"}
	status, answer := r.post("/studio/report", report, headerFailRate, "1")
	require.Equal(t, 500, status)
	code, _ := errorOf(t, answer)
	require.Equal(t, "steered_failure", code)
	status, _ = r.post("/studio/report", report, headerFailRate, "0")
	require.Equal(t, 202, status)
	for _, v := range []string{"30", "30ms"} {
		begin := time.Now()
		status, _ = r.post("/studio/report", report, headerLatency, v)
		require.Equal(t, 202, status)
		require.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, v := range []string{"before", "body", "true"} {
		status, part, err := r.send(t.Context(), "/studio/report", []byte(`{"id":"p"}`), headerReset, v)
		require.Error(t, err)
		require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
		if v == "before" {
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.Zero(t, status)
		}
		require.False(t, json.Valid(part), "never a whole answer")
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, v := range []string{"true", "body"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, _, err := r.send(ctx, "/studio/report", []byte(`{"id":"p"}`), headerHang, v)
			done <- err
		}()
		require.Eventually(t, func() bool { return r.hanging() == 1 }, 10*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Eventually(t, func() bool { return r.hanging() == 0 }, 10*time.Second, time.Millisecond, "the client went away")
	}
}

func (s *Studio) hanging() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hung)
}

func TestShutdownEndsWaits(t *testing.T) {
	t.Parallel()
	r := start(t)
	done := make(chan error, 2)
	status := make(chan int, 1)
	go func() {
		_, _, err := r.send(t.Context(), "/studio/report", []byte(`{"id":"p"}`), headerHang, "true")
		done <- err
	}()
	go func() {
		s, _, err := r.send(t.Context(), "/studio/revert", []byte(`{}`), headerLatency, "10m")
		status <- s
		done <- err
	}()
	require.Eventually(t, func() bool { return r.hanging() == 1 && r.Calls("POST /studio/revert") == 1 },
		10*time.Second, time.Millisecond)
	require.NoError(t, r.Shutdown(t.Context()))
	require.Equal(t, 503, <-status)
	errs := []error{<-done, <-done}
	require.Error(t, errors.Join(errs...))
}

func TestWorkersBoundTheWork(t *testing.T) {
	t.Parallel()
	s := New(Options{Workers: 2})
	var now, most, all atomic.Int32
	s.each(40, func(int) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		all.Add(1)
		now.Add(-1)
	})
	require.EqualValues(t, 40, all.Load())
	require.LessOrEqual(t, most.Load(), int32(2))
}
