package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"creditgate/gateway/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// queue hands out what it was given, once each, and keeps what became of it.
type queue struct {
	mu        sync.Mutex
	waiting   map[string][]webhook.Delivery
	delivered []int64
	failed    []string // why
	gone      []int64
	claims    int
}

func (q *queue) Due(context.Context) ([]string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var names []string
	for name, waiting := range q.waiting {
		if len(waiting) > 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

func (q *queue) Claim(_ context.Context, name string, limit int, lease time.Duration) ([]webhook.Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.claims++
	if lease < 15*time.Second {
		panic("the lease is shorter than an attempt")
	}
	n := min(limit, len(q.waiting[name]))
	taken := q.waiting[name][:n]
	q.waiting[name] = q.waiting[name][n:]
	return taken, nil
}

func (q *queue) Delivered(_ context.Context, d webhook.Delivery) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.delivered = append(q.delivered, d.Event.ID)
	return nil
}

func (q *queue) Failed(_ context.Context, d webhook.Delivery, why string, gone bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = append(q.failed, why)
	if gone {
		q.gone = append(q.gone, d.Event.ID)
	}
	return nil
}

func (q *queue) settled() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.delivered) + len(q.failed)
}

func loopback(t *testing.T) webhook.Networks {
	t.Helper()
	n, err := webhook.ParseNetworks([]string{"127.0.0.0/8", "::1"})
	require.NoError(t, err)
	return n
}

// send posts deliveries until each is settled.
func send(t *testing.T, networks webhook.Networks, deliveries ...webhook.Delivery) *queue {
	t.Helper()
	q := &queue{waiting: map[string][]webhook.Delivery{}}
	for _, d := range deliveries {
		q.waiting[d.Webhook] = append(q.waiting[d.Webhook], d)
	}
	s := webhook.NewSender(q, webhook.Options{Networks: networks, Every: time.Millisecond}, prometheus.NewRegistry(), zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	require.Eventually(t, func() bool { return q.settled() >= len(deliveries) }, 30*time.Second, time.Millisecond)
	cancel()
	running.Wait()
	return q
}

func delivery(name, url string, id int64, secrets ...string) webhook.Delivery {
	return webhook.Delivery{
		Webhook: name, URL: url, Secrets: secrets, Attempt: 1,
		Event: webhook.Event{
			ID: id, Type: "credits.low", Account: "ada", Product: "studio", At: "2026-03-01T00:00:00.000Z",
			Data: json.RawMessage(`{"percent":20}`),
		},
	}
}

func TestWhatIsPostedIsSigned(t *testing.T) {
	t.Parallel()
	now, before := webhook.NewSecret(), webhook.NewSecret()
	var bodies [][]byte
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, secret := range []string{now, before} { // during a change-over either verifies
			v, err := standardwebhooks.NewWebhook(secret)
			if err != nil || v.Verify(body, r.Header) != nil {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		other, _ := standardwebhooks.NewWebhook(webhook.NewSecret())
		if other.Verify(body, r.Header) == nil || r.Header.Get("Webhook-Id") != "7" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		bodies = append(bodies, body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	q := send(t, loopback(t), delivery("billing", receiver.URL, 7, now, before))
	require.Equal(t, []int64{7}, q.delivered, "%v", q.failed)
	require.JSONEq(t, `{"id":7,"type":"credits.low","account":"ada","product":"studio","at":"2026-03-01T00:00:00.000Z",
		"data":{"percent":20}}`, string(bodies[0]))
}

func TestWhatDoesNotCountAsTaken(t *testing.T) {
	t.Parallel()
	var redirected int
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case "/elsewhere":
			redirected++
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/reset":
			panic(http.ErrAbortHandler)
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
		case "/head":
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer receiver.Close()
	secret := webhook.NewSecret()
	paths := []string{"/redirect", "/gone", "/reset", "/large", "/head", "/fails"}
	var all []webhook.Delivery
	for i, path := range paths {
		all = append(all, delivery("hook"+strconv.Itoa(i), receiver.URL+path, int64(i), secret))
	}
	q := send(t, loopback(t), all...)
	require.Equal(t, []int64{3}, q.delivered, "only that one answered 2xx")
	require.Equal(t, []int64{1}, q.gone)
	require.Zero(t, redirected)
	slices.Sort(q.failed)
	require.Contains(t, q.failed, "answered 307")
	require.Contains(t, q.failed, "answered 410")
	require.Contains(t, q.failed, "answered 500")
	for _, why := range q.failed {
		require.NotContains(t, why, receiver.URL, "a URL may hold a token")
	}
}

func TestSlowReceiverDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-stuck; _ = r }))
	fast := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer fast.Close()
	defer slow.Close()
	secret := webhook.NewSecret()
	q := &queue{waiting: map[string][]webhook.Delivery{"slow": {delivery("slow", slow.URL, 1, secret)}}}
	for id := range int64(50) {
		q.waiting["fast"] = append(q.waiting["fast"], delivery("fast", fast.URL, id+100, secret))
	}
	s := webhook.NewSender(q, webhook.Options{Networks: loopback(t), Every: time.Millisecond}, prometheus.NewRegistry(), zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	require.Eventually(t, func() bool { return q.settled() == 50 }, 5*time.Second, time.Millisecond)
	cancel()
	running.Wait()
	require.Equal(t, 50, q.settled(), "an attempt that was broken off is not settled: the lease runs out")
	close(stuck)
}

func TestNothingIsPostedWhereItMustNotBe(t *testing.T) {
	t.Parallel()
	var called int
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called++ }))
	defer receiver.Close()
	local := strings.Replace(receiver.URL, "127.0.0.1", "localhost", 1)
	mapped := strings.Replace(receiver.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)
	secret := webhook.NewSecret()
	var all []webhook.Delivery
	for i, url := range []string{
		receiver.URL, local, mapped, strings.Replace(local, "http:", "https:", 1), "https://169.254.169.254/latest/meta-data",
		"https://10.0.0.1", "https://[fd00::1]", "https://[64:ff9b::7f00:1]", "https://0.0.0.0", "https://100.64.0.1",
		"http://192.0.2.1", "http://8.8.8.8",
	} {
		all = append(all, delivery("hook"+strconv.Itoa(i), url, int64(i), secret))
	}
	q := send(t, nil, all...)
	require.Zero(t, called)
	require.Empty(t, q.delivered)
	for _, why := range q.failed {
		require.Contains(t, why, "is not an address that webhooks may reach")
	}
}

func TestURLsAreChecked(t *testing.T) {
	t.Parallel()
	networks, err := webhook.ParseNetworks([]string{"127.0.0.0/8", "10.1.2.3"})
	require.NoError(t, err)
	for _, url := range []string{
		"https://example.com/hook?x=1", "https://example.com:8443", "http://127.0.0.1:9000/x", "http://localhost:9000",
		"http://10.1.2.3", "https://10.1.2.3", "https://8.8.8.8",
	} {
		require.NoError(t, networks.CheckURL(url), url)
	}
	for _, url := range []string{
		"", "example.com", "http://example.com", "ftp://example.com", "https://", "https://user@example.com",
		"https://user:pass@example.com", "https://example.com/#part", "http://10.1.2.4", "https://10.1.2.4",
		"https://169.254.169.254", "https://[::1]", "https://[fe80::1%25eth0]", "http://8.8.8.8",
		"https://example.com/" + strings.Repeat("x", 2048), "http://[::1]", "https://%zz",
	} {
		require.Error(t, networks.CheckURL(url), url)
	}
	require.Error(t, webhook.Networks(nil).CheckURL("http://localhost"))
	_, err = webhook.ParseNetworks([]string{"localhost"})
	require.ErrorContains(t, err, "webhook_networks")
}
