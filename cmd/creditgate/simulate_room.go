package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/postgresd"
)

// Bounds of a simulation's requests.
const (
	roomAnswerMax  = 16 << 20
	roomRequestMax = time.Minute
	// A scenario's timeout step costs this much; an answer of the stand-in backend takes a millisecond.
	roomUpstreamTimeout = "2s"
)

// room is the private machine room of one simulation: nothing of it outlives the command.
type room struct {
	dir      string
	token    string
	redis    *redisPart
	postgres *postgresPart
	backend  *storyBackend
	gateway  *child
	client   *http.Client

	dataAddr, adminAddr string
	keys                map[string]string // API key by account
}

// openRoom starts everything with the clock at start. The servers are not told that ctx has ended while they start, which
// takes two seconds: initdb, cut short, leaves a process that goes on writing where it is being removed.
func openRoom(ctx context.Context, a *app, policyFile string, start time.Time) (_ *room, err error) {
	r := &room{keys: map[string]string{}, client: &http.Client{Transport: &http.Transport{}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.dir, err = os.MkdirTemp("", "creditgate-simulate"); err != nil {
		return nil, err
	}
	if err := os.Chmod(r.dir, 0o755); err != nil { //nolint:gosec // Postgres enters it as another user
		return nil, err
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	r.token = hex.EncodeToString(random[:])
	servers := context.WithoutCancel(ctx)
	if r.redis, err = startRedis(servers, r.path("redis")); err != nil {
		return nil, err
	}
	if r.postgres, err = startPostgres(servers, postgresd.Options{Dir: r.path("postgres"), NoSync: true}); err != nil {
		return nil, err
	}
	if r.backend, err = newStoryBackend(ctx); err != nil {
		return nil, err
	}
	if r.dataAddr, err = choosePort(ctx, "", 0); err != nil {
		return nil, err
	}
	if r.adminAddr, err = choosePort(ctx, "", 0); err != nil {
		return nil, err
	}
	return r, r.startGateway(ctx, a, policyFile, start)
}

func (r *room) path(name string) string { return filepath.Join(r.dir, name) }

func (r *room) startGateway(ctx context.Context, a *app, policyFile string, start time.Time) error {
	if err := persist.BeginTestClock(ctx, r.postgres.ownerURL(), start); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program to start it again: %w", err)
	}
	env := withoutSettings(a.environ)
	for _, s := range [...]struct{ name, value string }{
		{"listen", r.dataAddr},
		{"admin_listen", r.adminAddr},
		{"admin_token", r.token},
		{"redis_url", r.redis.URL()},
		{"postgres_url", r.postgres.writerURL()},
		{"policy", absolute(policyFile)},
		{"upstream", r.backend.url},
		{"journal_dir", r.path("journal")},
		{"test_clock", "true"},
		{"upstream_timeout", roomUpstreamTimeout},
		{"breaker_requests", "1000000"}, // a story may fail as often as it likes
		{"verify_every", "0s"},
		{"shutdown_timeout", "5s"}, // nobody waits at a Ctrl-C for a backend that does not answer
	} {
		env = append(env, envName(s.name)+"="+s.value)
	}
	r.gateway = &child{
		name: "gateway", program: self, args: []string{"serve"}, env: env,
		log: r.path("gateway.log"), ready: r.adminURL() + "/readyz", errors: consoleLog(a.err),
	}
	return r.gateway.startReady(ctx)
}

func (r *room) dataURL() string  { return "http://" + r.dataAddr }
func (r *room) adminURL() string { return "http://" + r.adminAddr }

// settle ends the gateway in order, and with that everything is in Postgres.
func (r *room) settle() error {
	g := r.gateway
	r.gateway = nil
	r.client.CloseIdleConnections() // one that was opened and never used would be waited for
	ctx, cancel := context.WithTimeout(context.Background(), simulateStop)
	defer cancel()
	return g.stop(ctx)
}

// close ends everything that was started, those first that need the others, and removes what they wrote.
func (r *room) close() error {
	var errs []error
	if r.gateway != nil {
		errs = append(errs, r.settle())
	}
	if r.backend != nil {
		errs = append(errs, r.backend.close())
	}
	if r.postgres != nil {
		errs = append(errs, r.postgres.Remove())
	}
	if r.redis != nil {
		errs = append(errs, r.redis.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// said is an answer of the gateway.
type said struct {
	status int
	header http.Header
	body   []byte
}

// problem is the code of a refusal, "" for other answers.
func (s said) problem() string {
	code, _ := s.refusal()
	return code
}

// detailMax is what is shown of an answer that is no problem of the gateway's.
const detailMax = 300

// detail is what a refusal says of itself.
func (s said) detail() string {
	if code, detail := s.refusal(); code != "" {
		return detail
	}
	body := bytes.TrimSpace(s.body)
	return string(body[:min(len(body), detailMax)])
}

func (s said) refusal() (code, detail string) {
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	if s.status < http.StatusBadRequest || json.Unmarshal(s.body, &p) != nil {
		return "", ""
	}
	return p.Code, p.Detail
}

// String is the status, with the code of a problem.
func (s said) String() string {
	if code := s.problem(); code != "" {
		return fmt.Sprintf("%d %s", s.status, code)
	}
	return strconv.Itoa(s.status)
}

// control asks the control plane; body is sent as JSON unless it is nil.
func (r *room) control(ctx context.Context, method, path string, body any) (said, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return said{}, err
		}
	}
	return r.ask(ctx, method, r.adminURL()+path, r.token, b, http.Header{"X-Actor": {"creditgate policy simulate"}})
}

func (r *room) ask(ctx context.Context, method, url, token string, body []byte, header http.Header) (said, error) {
	ctx, cancel := context.WithTimeout(ctx, roomRequestMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return said{}, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Authorization", "Bearer "+token)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return said{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, roomAnswerMax))
	return said{status: resp.StatusCode, header: resp.Header, body: b}, err
}

// key makes an account with an API key the first time it is named.
func (r *room) key(ctx context.Context, account string) (string, error) {
	if key, ok := r.keys[account]; ok {
		return key, nil
	}
	if _, err := r.must(ctx, http.MethodPut, "/v1/accounts/"+account, struct{}{}); err != nil {
		return "", err
	}
	s, err := r.must(ctx, http.MethodPost, "/v1/accounts/"+account+"/keys", struct{}{})
	if err != nil {
		return "", err
	}
	var made struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(s.body, &made); err != nil {
		return "", fmt.Errorf("key of %s: %w", account, err)
	}
	r.keys[account] = made.Key
	return made.Key, nil
}

// must is control for what cannot fail unless something is broken.
func (r *room) must(ctx context.Context, method, path string, body any) (said, error) {
	s, err := r.control(ctx, method, path, body)
	if err == nil && s.status >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s answers %d: %s", method, path, s.status, s.body)
	}
	return s, err
}

// setClock moves the clock to a moment, unless it has passed it already: the clock runs while the steps are played.
func (r *room) setClock(ctx context.Context, at time.Time) error {
	var now struct {
		Now time.Time `json:"now"`
	}
	s, err := r.must(ctx, http.MethodGet, "/v1/clock", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(s.body, &now); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	if !now.Now.Before(at) {
		return nil
	}
	_, err = r.must(ctx, http.MethodPut, "/v1/clock", map[string]string{"now": at.UTC().Format(time.RFC3339Nano)})
	return err
}

// standing is what an account has.
type standing struct {
	Available *meter.Credits   `json:"available"` // nil: unlimited
	Held      meter.Credits    `json:"held"`
	Debt      meter.Credits    `json:"debt"`
	Buckets   []standingBucket `json:"buckets"`
	Plan      *string          `json:"plan"`
	NextReset *struct {
		Credits *meter.Credits `json:"credits"` // nil: unlimited
	} `json:"next_reset"`
	NextResetAt *time.Time `json:"next_reset_at"`
}

type standingBucket struct {
	Name      string         `json:"name"`
	Available *meter.Credits `json:"available"` // nil: unlimited
	FairUse   *struct {
		Left meter.Credits `json:"left"`
	} `json:"fair_use"`
}

func (r *room) standing(ctx context.Context, account string) (s standing, err error) {
	a, err := r.must(ctx, http.MethodGet, "/v1/accounts/"+account+"/balance", nil)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(a.body, &s)
}
