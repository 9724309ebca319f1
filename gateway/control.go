package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"creditgate/meter"
)

// Bounds of the control plane.
const (
	controlBodyMax = 64 << 10
	actorMax       = 120
	reasonMax      = 120 // what a ledger entry keeps
	storageTimeout = 5 * time.Second
	segmentsMax    = 7
)

// controlRoute is one row of the control plane's table. A segment of the pattern in braces matches any name.
type controlRoute struct {
	method  string
	pattern string
	open    bool // without a token: probes and scrapers have none
	serve   func(*call) (status int, body any, p *problem)
}

func (g *Gateway) controlRoutes() []controlRoute {
	return []controlRoute{
		{"PUT", "/v1/accounts/{account}", false, g.putAccount},
		{"GET", "/v1/accounts/{account}", false, g.getAccount},
		{"POST", "/v1/accounts/{account}/keys", false, g.postKey},
		{"DELETE", "/v1/accounts/{account}/keys/{key}", false, g.deleteKey},
		{"POST", "/v1/accounts/{account}/grants", false, g.postGrant},
		{"PATCH", "/v1/accounts/{account}/grants/{grant}", false, g.patchGrant},
		{"POST", "/v1/accounts/{account}/revocations", false, g.postRevocation},
		{"PUT", "/v1/accounts/{account}/subscription", false, g.putSubscription},
		{"GET", "/v1/accounts/{account}/subscription", false, g.getSubscription},
		{"DELETE", "/v1/accounts/{account}/subscription", false, g.deleteSubscription},
		{"GET", "/v1/accounts/{account}/overrides", false, g.getOverrides},
		{"PUT", "/v1/accounts/{account}/overrides/{override}", false, g.putOverride},
		{"DELETE", "/v1/accounts/{account}/overrides/{override}", false, g.deleteOverride},
		{"POST", "/v1/accounts/{account}/revocations/{revocation}/reversal", false, g.postReversal},
		{"POST", "/v1/accounts/{account}/purchases", false, g.postPurchase},
		{"GET", "/v1/purchases/{purchase}", false, g.getPurchase},
		{"POST", "/v1/purchases/{purchase}/payment", false, g.postPayment},
		{"GET", "/v1/accounts/{account}/balance", false, g.getBalance},
		{"GET", "/v1/accounts/{account}/entries", false, g.getEntries},
		{"POST", "/v1/reservations", false, g.postReservation},
		{"GET", "/v1/reservations/{reservation}", false, g.getReservation},
		{"POST", "/v1/reservations/{reservation}/commit", false, g.postCommit},
		{"POST", "/v1/reservations/{reservation}/release", false, g.postRelease},
		{"POST", "/v1/reservations/{reservation}/extend", false, g.postExtend},
		{"GET", "/v1/policy", false, g.getPolicy},
		{"POST", "/v1/policy/reload", false, g.postReload},
		{"GET", "/v1/events", false, g.getEvents},
		{"GET", "/v1/webhooks", false, g.getWebhooks},
		{"PUT", "/v1/webhooks/{webhook}", false, g.putWebhook},
		{"GET", "/v1/webhooks/{webhook}", false, g.getWebhook},
		{"DELETE", "/v1/webhooks/{webhook}", false, g.deleteWebhook},
		{"POST", "/v1/webhooks/{webhook}/redeliver", false, g.postRedeliver},
		{"GET", "/v1/clock", false, g.getClock},
		{"PUT", "/v1/clock", false, g.putClock},
		{"GET", "/livez", true, g.getLive},
		{"GET", "/readyz", true, g.getReady},
		{"GET", "/metrics", true, g.getMetrics},
	}
}

// call is one request on the control plane. Its strings are copies, as an exchange's are.
type call struct {
	ctx    *fasthttp.RequestCtx
	head   head
	id     string
	path   string
	query  string
	actor  string
	ref    string    // Idempotency-Key
	names  [2]string // what the pattern's braces matched, in order
	static string    // the pattern, the metric label
	target string    // what was made, where its id is not in the path
}

func (g *Gateway) serveControl(ctx *fasthttp.RequestCtx) {
	c := &call{ctx: ctx, id: meter.NewID(g.clock.Now()).String(), static: "none"}
	defer func() {
		if r := recover(); r != nil {
			g.log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg("bug: control handler panicked")
			g.problems.write(&ctx.Response, &problem{code: codeInternal, detail: "the gateway failed"}, c.id)
		}
		g.metrics.admin.WithLabelValues(c.static, strconv.Itoa(ctx.Response.StatusCode())).Inc()
		g.tellChange(c)
	}()
	ctx.Response.Header.Set("X-Request-Id", c.id)
	status, body, p := g.routeControl(c)
	if made, ok := body.(interface{ target() string }); ok {
		c.target = made.target()
	}
	if p == nil && body != nil {
		p = writeJSON(&ctx.Response, status, body)
	} else if p == nil && status != 0 {
		ctx.Response.SetStatusCode(status)
	}
	if p != nil {
		g.problems.write(&ctx.Response, p, c.id)
	}
}

func (g *Gateway) routeControl(c *call) (int, any, *problem) {
	if p := c.readTarget(); p != nil {
		closeAfter(c.ctx)
		return 0, nil, p
	}
	method := string(c.ctx.Method())
	var found *controlRoute
	for i := range g.routes {
		if r := &g.routes[i]; r.method == method && c.matches(r.pattern) {
			found = r
			break
		}
	}
	if (found == nil || !found.open) && !g.admits(c) {
		g.refused.one(g.base, c)
		return 0, nil, &problem{code: codeUnauthenticated, detail: "send the admin token as Authorization: Bearer <token>"}
	}
	if found == nil {
		p := noRoute(method, c.path)
		if methods := g.others(c); len(methods) > 0 {
			p.detail = c.path + " does not take " + method + "; it takes " + strings.Join(methods, " and ")
		}
		return 0, nil, p
	}
	c.static = found.pattern
	p := c.checkNames()
	if p == nil {
		p = c.readHead()
	}
	if p != nil {
		return 0, nil, p
	}
	if !found.open { // a probe or a scraper may add what it likes
		if _, p := readQuery(c.query, found.queryOf()...); p != nil {
			return 0, nil, p
		}
	}
	return found.serve(c)
}

// readTarget reads the head and the target. A problem ends the connection.
func (c *call) readTarget() (p *problem) {
	if c.head, p = readHead(&c.ctx.Request.Header); p != nil {
		return p
	}
	if c.head.close {
		c.ctx.Response.SetConnectionClose()
	}
	target := string(c.ctx.Request.Header.RequestURI())
	if !strings.HasPrefix(target, "/") {
		var ok bool
		if _, target, ok = originForm(target); !ok {
			return malformedHead("the target is neither a path nor an http URL with a host")
		}
	}
	c.path, c.query, _ = strings.Cut(target, "?")
	return nil
}

// checkNames refuses an id in the path that none can have. A 404 would send the caller to look for it.
func (c *call) checkNames() *problem {
	n := 0
	for segment := range strings.SplitSeq(c.static, "/") {
		if param, ok := strings.CutPrefix(segment, "{"); ok {
			if !meter.ValidName(c.names[n]) {
				p := badName(strings.TrimSuffix(param, "}"), c.names[n])
				p.detail = "the path's " + p.detail
				return p
			}
			n++
		}
	}
	return nil
}

// others are the methods that a path takes.
func (g *Gateway) others(c *call) (methods []string) {
	for _, r := range g.routes {
		if c.matches(r.pattern) {
			methods = append(methods, r.method)
		}
	}
	return methods
}

// matches compares the path to a pattern and keeps what stands for the names in it.
func (c *call) matches(pattern string) bool {
	path, names := c.path, 0
	for range segmentsMax {
		var want, have string
		var more, there bool
		want, pattern, more = strings.Cut(pattern, "/")
		have, path, there = strings.Cut(path, "/")
		switch {
		case more != there:
			return false
		case strings.HasPrefix(want, "{"):
			c.names[names] = have
			names++
		case want != have:
			return false
		}
		if !more {
			return true
		}
	}
	return false
}

// admits compares hashes, so that neither content nor length of the token shows in the time taken.
func (g *Gateway) admits(c *call) bool {
	scheme, token, _ := strings.Cut(string(c.head.authorization), " ")
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(g.set.AdminToken))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func (c *call) readHead() *problem {
	c.actor = string(c.head.actor)
	if c.actor == "" {
		c.actor = "admin"
	}
	if len(c.actor) > actorMax || !plainText(c.actor) {
		c.actor = c.actor[:min(len(c.actor), actorMax)] // the log line of the refused call shows it
		return &problem{
			code: codeInvalid, param: "X-Actor",
			detail: "X-Actor must be at most " + strconv.Itoa(actorMax) + " printable ASCII characters",
		}
	}
	if raw := string(c.head.idempotencyKey); raw != "" {
		key, ok := parseIdempotencyKey(raw)
		if !ok || !meter.ValidName(key) {
			p := badName("Idempotency-Key", raw)
			p.detail += "; on this port it is the external_ref"
			return p
		}
		c.ref = key
	}
	return nil
}

func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// decode reads a JSON body strictly: an unknown field is an error. A missing body is an empty object.
func (c *call) decode(into any) *problem {
	body := bytes.TrimSpace(c.ctx.PostBody())
	if len(body) == 0 {
		return nil
	}
	return readObject(body, into)
}

// reference settles on the one name under which a mutation is idempotent.
func (c *call) reference(external string, required bool) (string, *problem) {
	switch {
	case external != "" && c.ref != "" && external != c.ref:
		return "", &problem{
			code: codeInvalid, param: "external_ref",
			detail: "external_ref and Idempotency-Key differ; send one",
		}
	case external == "":
		external = c.ref
	}
	if external == "" && !required {
		return "", nil
	}
	if external == "" {
		return "", &problem{
			code: codeInvalid, param: "external_ref",
			detail: "external_ref is required, or an Idempotency-Key in its place, so that repeating the call is safe; it " + nameForm,
		}
	}
	if !meter.ValidName(external) {
		return "", badName("external_ref", external)
	}
	return external, nil
}

func checkReason(s string) *problem {
	if len(s) > reasonMax {
		return &problem{
			code: codeInvalid, param: "reason",
			detail: "reason must be at most " + strconv.Itoa(reasonMax) + " bytes long",
		}
	}
	return nil
}

// storageProblem maps what a change was answered with.
func (g *Gateway) storageProblem(err error) *problem {
	return g.storageAnswer(err, "whether the change was recorded is not known: repeat the call as it was, with the same "+
		"external_ref where it has one")
}

// readProblem maps what a question was answered with.
func (g *Gateway) readProblem(err error) *problem {
	return g.storageAnswer(err, "Postgres did not answer, so this cannot be read at the moment; nothing was changed, ask again")
}

func (g *Gateway) storageAnswer(err error, unavailable string) *problem {
	if r, ok := errors.AsType[*RefusalError](err); ok {
		return refusal(r)
	}
	switch {
	case errors.Is(err, meter.ErrNoAccount):
		return &problem{code: codeNotFound, detail: "there is no such account"}
	case errors.Is(err, ErrUnknown):
		return &problem{code: codeNotFound, detail: "there is nothing by that id"}
	case errors.Is(err, ErrInvalid):
		g.log.Warn().Err(err).Msg("storage refused a value")
		return &problem{code: codeInvalid, detail: "a value is outside of what can be stored; the log says which"}
	case errors.Is(err, ErrConflict):
		return &problem{
			code: codeConflict, param: "external_ref",
			detail: "this external_ref was used before with another content; send that content again, or another external_ref",
		}
	case errors.Is(err, ErrTooMany):
		return &problem{code: codeChangeRefused, detail: err.Error()}
	case errors.Is(err, ErrTooManyGrants):
		return &problem{code: codeTooManyGrants, detail: "the account has " +
			strconv.Itoa(meter.GrantsMax) + " live grants already; let some be used up or revoke them"}
	}
	if !g.outages.Counts(err) {
		g.log.Error().Err(err).Msg("storage failed")
	}
	return &problem{code: codeStorageUnavailable, retryAfter: retryMeteringSeconds, detail: unavailable}
}

// changed is the status of a mutation: 201 new, 200 repeated, 202 when Redis follows later.
func changed(applied, repeated bool) int {
	switch {
	case !applied:
		return fasthttp.StatusAccepted
	case repeated:
		return fasthttp.StatusOK
	}
	return fasthttp.StatusCreated
}

type metricsHandler = fasthttp.RequestHandler

func newMetricsHandler(from prometheus.Gatherer) metricsHandler {
	return fasthttpadaptor.NewFastHTTPHandler(promhttp.HandlerFor(from, promhttp.HandlerOpts{}))
}

func (g *Gateway) getMetrics(c *call) (int, any, *problem) {
	g.gatherer(c.ctx)
	return 0, nil, nil
}
