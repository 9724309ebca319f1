package main_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/redisd"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// seedStart is where the clock of a seed world begins: before the background studio's launch on 2026-03-16.
var seedStart = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// seedWorld is a gateway with a test clock and any number of policies, on servers of its own. Rules are played in it
// side by side, each on accounts of its own. They share the clock: when all of them wait for a time, it moves to the
// earliest of these.
type seedWorld struct {
	world   *world
	gateway *gateway
	backend *seedBackend

	mu      sync.Mutex
	moved   *sync.Cond
	players int // playing
	waiting []time.Time
	now     time.Time // of the last move
	broken  error     // the clock cannot be moved
	jumps   int
}

// newSeedWorld starts a gateway with policies, by file name.
func newSeedWorld(t *testing.T, policies map[string]string) *seedWorld {
	t.Helper()
	w := &seedWorld{backend: &seedBackend{calls: map[string]int{}}, now: seedStart}
	w.moved = sync.NewCond(&w.mu)
	w.world = &world{
		redis: redisd.Test(t), database: persisttest.DB(t), journal: filepath.Join(t.TempDir(), "journal"), policy: t.TempDir(),
		backend: httptest.NewServer(w.backend),
	}
	t.Cleanup(w.world.backend.Close)
	for name, src := range policies {
		require.NoError(t, os.WriteFile(filepath.Join(w.world.policy, name+".yaml"), []byte(src), 0o600))
	}
	require.NoError(t, persist.BeginTestClock(t.Context(), w.world.database, seedStart))
	w.gateway = w.world.serve(t, "CREDITGATE_TEST_CLOCK=true", "CREDITGATE_KEY_TTL=1s", "CREDITGATE_VERIFY_EVERY=0s",
		"CREDITGATE_BREAKER_REQUESTS=1000000")
	return w
}

// enter makes w wait for n more players before its clock moves again.
func (w *seedWorld) enter(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.players += n
}

// leave ends a player.
func (w *seedWorld) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.players--
	w.moveIfAllWait()
}

// until returns when the clock has reached a time.
func (w *seedWorld) until(at time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, at)
	w.moveIfAllWait()
	for w.now.Before(at) && w.broken == nil {
		w.moved.Wait()
	}
	return w.broken
}

// moveIfAllWait moves the clock once nobody has anything left to do before a later time. The clock runs meanwhile, so
// it is at, or some seconds after, the time that was waited for: rules look an hour before a boundary, and at it.
func (w *seedWorld) moveIfAllWait() {
	if len(w.waiting) < w.players || w.players == 0 || w.broken != nil {
		return
	}
	next := slices.MinFunc(w.waiting, time.Time.Compare)
	if next.After(w.now) {
		w.broken = w.setClock(next)
		w.now = next
		w.jumps++
	}
	w.waiting = slices.DeleteFunc(w.waiting, func(at time.Time) bool { return !at.After(next) })
	w.moved.Broadcast()
}

func (w *seedWorld) setClock(to time.Time) error {
	body, err := json.Marshal(map[string]string{"now": to.UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return err
	}
	a, err := ask(w.gateway.admin, adminToken, http.MethodPut, "/v1/clock", body, nil)
	if err == nil && a.status != http.StatusOK {
		err = a.failure("PUT /v1/clock")
	}
	return err
}

// seedBackend is the image service behind all three products. It counts whom it worked for.
type seedBackend struct {
	mu    sync.Mutex
	calls map[string]int // by account
}

// Headers that tell the backend who asks, and how many items are to fail.
const (
	headerWho  = "X-Seed-Account"
	headerFail = "X-Seed-Fail"
)

type seedJob struct {
	Photos []json.RawMessage `json:"photos"`
	N      int               `json:"n"`
}

type seedItem struct {
	Status string `json:"status"`
}

func (b *seedBackend) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	b.mu.Lock()
	b.calls[r.Header.Get(headerWho)]++
	b.mu.Unlock()
	var job seedJob
	_ = json.Unmarshal(body, &job)
	photos := len(job.Photos)
	if r.ParseMultipartForm(1<<20) == nil {
		photos = len(r.MultipartForm.File["photos"])
	}
	rw.Header().Set("Content-Type", "application/json")
	fail, _ := strconv.Atoi(r.Header.Get(headerFail))
	if fail < 0 {
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	var answer struct {
		Results []seedItem `json:"results"`
		Data    []seedItem `json:"data"`
	}
	for i := range max(job.N, photos, 1) {
		if i < fail {
			answer.Results = append(answer.Results, seedItem{"failed"})
			continue
		}
		answer.Results, answer.Data = append(answer.Results, seedItem{"ok"}), append(answer.Data, seedItem{"ok"})
	}
	if b, err := json.Marshal(answer); err == nil { // it always can be
		_, _ = rw.Write(b)
	}
}

func (b *seedBackend) callsOf(account string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[account]
}
