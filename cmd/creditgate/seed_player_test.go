package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// rule is one rule of a seed product, with the play that shows that it holds.
type rule struct {
	id   string
	what string
	play func(p *player)
}

// player plays one rule under one policy. It is what require reports to: the first failure ends the play, and no more
// than the play, so that the same play can be seen to fail under a mutated policy.
type player struct {
	world   *seedWorld
	id      string // in the names of its accounts
	product string
	zone    *time.Location
	failed  []string
}

// endOfPlay is what FailNow panics with.
type endOfPlay struct{}

// Errorf is for require.
func (p *player) Errorf(format string, args ...any) {
	p.failed = append(p.failed, fmt.Sprintf(format, args...))
}

// FailNow is for require.
func (p *player) FailNow() { panic(endOfPlay{}) }

// run plays a rule; the error is what failed.
func (p *player) run(play func(*player)) (err error) {
	defer p.world.leave()
	defer func() {
		switch r := recover().(type) {
		case nil, endOfPlay:
		default:
			err = fmt.Errorf("panic: %v", r)
			return
		}
		if len(p.failed) > 0 {
			err = fmt.Errorf("%s", strings.Join(p.failed, "\n"))
		}
	}()
	play(p)
	return nil
}

// local is a time in the product's zone: 2026-03-16 09:00.
func (p *player) local(text string) time.Time {
	at, err := time.ParseInLocation("2006-01-02 15:04", text, p.zone)
	require.NoError(p, err)
	return at
}

// at waits until it is some local time.
func (p *player) at(text string) { require.NoError(p, p.world.until(p.local(text))) }

// answer is what the gateway answered, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) failure(what string) error {
	return fmt.Errorf("%s answers %d: %s", what, a.status, a.body)
}

func (a answer) charged() string   { return a.header.Get("X-Credits-Charged") }
func (a answer) remaining() string { return a.header.Get("X-Credits-Remaining") }

func (a answer) code() string {
	var p struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(a.body, &p)
	return p.Code
}

func ask(base, token, method, path string, body []byte, header http.Header) (answer, error) {
	req, err := http.NewRequest(method, base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Authorization", "Bearer "+token)
	if len(body) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// control asks the control plane.
func (p *player) control(method, path string, body any) answer {
	var b []byte
	if body != nil {
		var err error
		b, err = json.Marshal(body)
		require.NoError(p, err)
	}
	a, err := ask(p.world.gateway.admin, adminToken, method, path, b, nil)
	require.NoError(p, err)
	return a
}

// must is control for what has to succeed.
func (p *player) must(method, path string, body any) answer {
	a := p.control(method, path, body)
	require.Less(p, a.status, 300, "%s %s: %s", method, path, a.body)
	return a
}

// decode reads the body of an answer.
func decode[T any](p *player, a answer) (v T) {
	require.NoError(p, json.Unmarshal(a.body, &v), "%s", a.body)
	return v
}

// fields is the body of a request to the control plane.
type fields map[string]any

// seedAccount is an account of a play, with a key.
type seedAccount struct {
	*player

	name, key string
	refs      int
}

func (p *player) customer(name string) *seedAccount {
	c := &seedAccount{player: p, name: p.id + "-" + name}
	p.must("PUT", "/v1/accounts/"+c.name, fields{"product": p.product})
	return c
}

// member is a customer with a subscription.
func (p *player) member(name, plan string, slots int) *seedAccount {
	c := p.customer(name)
	c.subscribe(plan, slots, "monthly")
	return c
}

func (c *seedAccount) path(rest string) string { return "/v1/accounts/" + c.name + rest }

// ref is a reference that is new.
func (c *seedAccount) ref() string {
	c.refs++
	return fmt.Sprintf("%s-%d", c.name, c.refs)
}

func (c *seedAccount) subscribe(plan string, slots int, period string) {
	body := fields{"plan": plan, "period": period}
	if slots > 0 {
		body["slots"] = slots
	}
	c.must("PUT", c.path("/subscription"), body)
}

// order buys a pack and returns whatever is answered.
func (c *seedAccount) order(pack string, more fields) answer {
	body := fields{"pack": pack, "external_ref": c.ref()}
	maps.Copy(body, more)
	return c.control("POST", c.path("/purchases"), body)
}

// purchase is a purchase as the control plane shows it.
type purchase struct {
	Ref       string        `json:"purchase_ref"`
	Credits   meter.Credits `json:"credits"`
	State     string        `json:"state"`
	ExpiresAt *time.Time    `json:"expires_at"`
	NetMinor  int64         `json:"net_minor"`
	Currency  string        `json:"currency"`
	Invoice   string        `json:"invoice_ref"`
	PaidAt    *time.Time    `json:"paid_at"`
	Applied   bool          `json:"applied"`
}

// buy buys a pack, which is granted in the same call.
func (c *seedAccount) buy(pack string) purchase {
	a := c.order(pack, nil)
	require.Equal(c, http.StatusCreated, a.status, "buy %s: %s", pack, a.body)
	bought := decode[purchase](c.player, a)
	require.Equal(c, "granted", bought.State)
	return bought
}

// ask sends a request on the data plane. The key is made at the first one, since what it is asked for is cached by key.
func (c *seedAccount) ask(method, path string, body any, header ...string) answer {
	var b []byte
	if body != nil {
		var err error
		b, err = json.Marshal(body)
		require.NoError(c, err)
	}
	return c.send(method, path, b, header...)
}

// send is ask with a body as it is.
func (c *seedAccount) send(method, path string, body []byte, header ...string) answer {
	if c.key == "" {
		c.key = decode[struct {
			Key string `json:"key"`
		}](c.player, c.must("POST", c.path("/keys"), fields{})).Key
	}
	h := http.Header{headerWho: {c.name}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	a, err := ask(c.world.gateway.data, c.key, method, path, body, h)
	require.NoError(c, err)
	return a
}

// filePart is a part of a multipart body: a file, or a field if it has no file name.
type filePart struct{ name, file, content string }

// form posts a multipart body.
func (c *seedAccount) form(path string, parts ...filePart) answer {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, part := range parts {
		create := w.CreateFormField
		if part.file != "" {
			create = func(name string) (io.Writer, error) { return w.CreateFormFile(name, part.file) }
		}
		into, err := create(part.name)
		require.NoError(c, err)
		_, err = io.WriteString(into, part.content)
		require.NoError(c, err)
	}
	require.NoError(c, w.Close())
	return c.send("POST", path, body.Bytes(), "Content-Type", w.FormDataContentType())
}

// job is a request to the background studio.
type job struct {
	Photos     []photo `json:"photos"`
	Background string  `json:"background,omitempty"`
	Logo       string  `json:"logo,omitempty"`
}

type photo struct {
	ID string `json:"id"`
}

func batch(n int) job {
	j := job{Background: "#dde7f0"}
	for i := range n {
		j.Photos = append(j.Photos, photo{fmt.Sprintf("photo-%d", i+1)})
	}
	return j
}

func (c *seedAccount) apply(n int) answer { return c.ask("POST", "/studio/apply", batch(n)) }

// applied applies, which must be charged with that many credits.
func (c *seedAccount) applied(n int) {
	a := c.apply(n)
	require.Equal(c, http.StatusOK, a.status, "apply %d: %s", n, a.body)
	require.Equal(c, strconv.Itoa(n), a.charged())
}

// calls is how often the backend worked for the customer.
func (c *seedAccount) calls() int { return c.world.backend.callsOf(c.name) }

// wealth is a balance as the data plane shows it.
type wealth struct {
	Available *meter.Credits `json:"available"`
	Held      meter.Credits  `json:"held"`
	Debt      meter.Credits  `json:"debt"`
	Plan      *string        `json:"plan"`
	Buckets   []wealthBucket `json:"buckets"`
	NextReset *struct {
		At      time.Time      `json:"at"`
		Credits *meter.Credits `json:"credits"` // nil: unlimited
	} `json:"next_reset"`
	NextResetAt *time.Time `json:"next_reset_at"`
}

type wealthBucket struct {
	Name       string         `json:"name"`
	Available  *meter.Credits `json:"available"`
	Held       meter.Credits  `json:"held"`
	Unlimited  bool           `json:"unlimited"`
	NextExpiry *struct {
		Credits *meter.Credits `json:"credits"` // nil: unlimited
		At      time.Time      `json:"at"`
	} `json:"next_expiry"`
	FairUse *struct {
		Cap  meter.Credits `json:"cap"`
		Used meter.Credits `json:"used"`
		Left meter.Credits `json:"left"`
	} `json:"fair_use"`
}

func (c *seedAccount) balance() wealth {
	a := c.ask("GET", "/credits/balance", nil)
	require.Equal(c, http.StatusOK, a.status, "%s", a.body)
	return decode[wealth](c.player, a)
}

// has compares what is available, written as "promo 5, monthly 10". The order in which buckets are listed says nothing
// here: it is another test's to see in which they are drained.
func (c *seedAccount) has(want string) {
	b := c.balance()
	var have []string
	for _, bucket := range b.Buckets {
		amount := "unlimited"
		if bucket.Available != nil {
			amount = bucket.Available.String()
		}
		have = append(have, bucket.Name+" "+amount)
	}
	must := strings.Split(want, ", ")
	slices.Sort(must)
	slices.Sort(have)
	require.Equal(c, strings.Join(must, ", "), strings.Join(have, ", "), "what %s has", c.name)
}

func (c *seedAccount) bucket(name string) wealthBucket {
	for _, b := range c.balance().Buckets {
		if b.Name == name {
			return b
		}
	}
	require.FailNow(c, "no bucket "+name)
	return wealthBucket{}
}

// entry is an entry of the account's history.
type entry struct {
	Kind      string `json:"kind"`
	Operation string `json:"operation"`
	Lines     []struct {
		Bucket  string        `json:"bucket"`
		Credits meter.Credits `json:"credits"`
	} `json:"lines"`
}

// history waits until the ledger has so many entries of a kind, and returns these, newest first.
func (c *seedAccount) history(kind string, n int) (found []entry) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		found = nil
		page := decode[struct {
			Entries []entry `json:"entries"`
		}](c.player, c.ask("GET", "/credits/history?limit=100", nil))
		for _, e := range page.Entries {
			if e.Kind == kind {
				found = append(found, e)
			}
		}
		if len(found) >= n {
			return found
		}
	}
	require.FailNow(c, fmt.Sprintf("%s has %d entries of kind %s, not %d", c.name, len(found), kind, n))
	return nil
}
