package gateway

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// code names a problem. Clients branch on it, so a code never changes its meaning.
type code string

// The problem codes of the HTTP contract.
const (
	codeUnauthenticated      code = "unauthenticated"
	codeSuspended            code = "account-suspended"
	codeInsufficient         code = "insufficient-credits"
	codeFairUse              code = "fair-use-exceeded"
	codeTooManyInFlight      code = "too-many-in-flight"
	codeAmbiguousPrice       code = "ambiguous-price"
	codeInvalid              code = "invalid-request"
	codeUnpriced             code = "unpriced-route"
	codeNotFound             code = "not-found"
	codeEncoding             code = "unsupported-encoding"
	codeTooLarge             code = "payload-too-large"
	codeHeadersTooLarge      code = "headers-too-large"
	codeInProgress           code = "request-in-progress"
	codeMismatch             code = "idempotency-mismatch"
	codeReplayUnavailable    code = "replay-unavailable"
	codeConflict             code = "conflict" // a reference was used before for something else
	codeChangeRefused        code = "change-refused"
	codeGrantUsedUp          code = "grant-used-up"
	codeExceedsGrant         code = "exceeds-grant"
	codeCommitted            code = "reservation-committed"
	codeReleased             code = "reservation-released"
	codeExpired              code = "reservation-expired"
	codeAmountConflict       code = "amount-conflict"
	codeExceedsHold          code = "amount-exceeds-hold"
	codeTooManyGrants        code = "too-many-grants"
	codeNotEligible          code = "pack-not-eligible"
	codeSubscriptionRequired code = "subscription-required"
	codeNotRefundable        code = "not-refundable"
	codeUpstreamUnreachable  code = "upstream-unreachable"
	codeUpstreamFailed       code = "upstream-failed"
	codeUpstreamTimeout      code = "upstream-timeout"
	codeUpstreamUnavailable  code = "upstream-unavailable"
	codeUpstreamUncountable  code = "upstream-uncountable"
	codeMeteringUnavailable  code = "metering-unavailable"
	codeStorageUnavailable   code = "storage-unavailable"
	codeInvalidPolicy        code = "invalid-policy"
	codePoliciesDiffer       code = "policies-differ"
	codeInternal             code = "internal-error"
)

// meaning is a code's row.
type meaning struct {
	status int
	title  string
	retry  bool
}

// X-Should-Retry of a code: whether the same request may succeed when it is repeated. SDKs obey the header before they look
// at the status, so a wrong "false" ends a request that one more try would have served.
const (
	retryYes = true
	retryNo  = false
)

// problems is the one table that turns what went wrong into HTTP. Nothing else in the house knows a status.
func problems() map[code]meaning {
	return map[code]meaning{
		codeUnauthenticated:      {fasthttp.StatusUnauthorized, "No valid API key", retryNo},
		codeSuspended:            {fasthttp.StatusForbidden, "Account suspended", retryNo},
		codeInsufficient:         {fasthttp.StatusPaymentRequired, "Not enough credits", retryNo},
		codeFairUse:              {fasthttp.StatusTooManyRequests, "Fair-use limit reached", retryNo},
		codeTooManyInFlight:      {fasthttp.StatusTooManyRequests, "Too many requests in flight", retryYes},
		codeAmbiguousPrice:       {fasthttp.StatusBadRequest, "Price is ambiguous", retryNo},
		codeInvalid:              {fasthttp.StatusBadRequest, "Invalid request", retryNo},
		codeUnpriced:             {fasthttp.StatusNotFound, "Route has no price", retryNo},
		codeNotFound:             {fasthttp.StatusNotFound, "Not found", retryNo},
		codeEncoding:             {fasthttp.StatusUnsupportedMediaType, "Content encoding not supported", retryNo},
		codeTooLarge:             {fasthttp.StatusRequestEntityTooLarge, "Body too large", retryNo},
		codeHeadersTooLarge:      {fasthttp.StatusRequestHeaderFieldsTooLarge, "Headers too large", retryNo},
		codeInProgress:           {fasthttp.StatusConflict, "Request with this key is in progress", retryYes},
		codeMismatch:             {fasthttp.StatusUnprocessableEntity, "Key was used for another request", retryNo},
		codeReplayUnavailable:    {fasthttp.StatusConflict, "Answer is no longer stored", retryNo},
		codeConflict:             {fasthttp.StatusConflict, "Reference was used for another change", retryNo},
		codeChangeRefused:        {fasthttp.StatusConflict, "Change contradicts what is recorded", retryNo},
		codeGrantUsedUp:          {fasthttp.StatusConflict, "Grant is used up", retryNo},
		codeExceedsGrant:         {fasthttp.StatusConflict, "More than the grant still has", retryNo},
		codeCommitted:            {fasthttp.StatusConflict, "Reservation is committed", retryNo},
		codeReleased:             {fasthttp.StatusConflict, "Reservation is released", retryNo},
		codeExpired:              {fasthttp.StatusConflict, "Reservation is expired", retryNo},
		codeAmountConflict:       {fasthttp.StatusConflict, "Committed with another amount", retryNo},
		codeExceedsHold:          {fasthttp.StatusBadRequest, "More than is reserved", retryNo},
		codeTooManyGrants:        {fasthttp.StatusConflict, "Too many grants", retryNo},
		codeNotEligible:          {fasthttp.StatusForbidden, "Pack is not for this account", retryNo},
		codeSubscriptionRequired: {fasthttp.StatusForbidden, "Subscription required", retryNo},
		codeNotRefundable:        {fasthttp.StatusConflict, "Not refundable", retryNo},
		codeUpstreamUnreachable:  {fasthttp.StatusBadGateway, "Backend unreachable", retryYes},
		codeUpstreamFailed:       {fasthttp.StatusBadGateway, "Backend failed", retryYes},
		codeUpstreamTimeout:      {fasthttp.StatusGatewayTimeout, "Backend timed out", retryYes},
		codeUpstreamUnavailable:  {fasthttp.StatusServiceUnavailable, "Backend unavailable", retryYes},
		codeUpstreamUncountable:  {fasthttp.StatusBadGateway, "Backend's answer cannot be counted", retryNo},
		codeMeteringUnavailable:  {fasthttp.StatusServiceUnavailable, "Metering unavailable", retryYes},
		codeStorageUnavailable:   {fasthttp.StatusServiceUnavailable, "Storage unavailable", retryYes},
		codeInvalidPolicy:        {fasthttp.StatusUnprocessableEntity, "Policies not reloaded", retryNo},
		codePoliciesDiffer:       {fasthttp.StatusConflict, "Gateways go by different policies", retryNo},
		codeInternal:             {fasthttp.StatusInternalServerError, "Internal error", retryYes},
	}
}

// problem is one refusal. Detail says what, where, and how to mend it.
type problem struct {
	code       code
	detail     string
	param      string // the request's name at fault, such as body.n
	retryAfter int    // seconds; 0 for none. A problem that has it is worth a repeat, whatever its code says
	final      bool   // no repeat cures this one, although its code's row says true
	shortfall  *shortfall
	limit      *fairUseLimit
	outcome    *meter.Reservation // what became of the reservation that is in the way
	lease      *leaseEnd
	mistakes   *policyProblems
	fleet      *fleetView
	ready      *readiness
	answer     *upstreamAnswer
}

// upstreamAnswer is what a problem adds that stands in the place of a backend's answer.
type upstreamAnswer struct {
	Status      int    `json:"upstream_status"`
	ContentType string `json:"upstream_content_type"`
}

// contentTypeShown is how much of a backend's Content-Type a problem and the log show.
const contentTypeShown = 100

func newUpstreamAnswer(resp *fasthttp.Response) *upstreamAnswer {
	kind := resp.Header.ContentType()
	return &upstreamAnswer{Status: resp.StatusCode(), ContentType: string(kind[:min(len(kind), contentTypeShown)])}
}

// fairUseLimit is what a fair-use-exceeded problem adds; null if it never ends by itself.
type fairUseLimit struct {
	ResetsAt *string `json:"resets_at"`
}

// leaseEnd is what a request-in-progress problem adds: by then the first request is settled, or its credits come back.
type leaseEnd struct {
	ExpiresAt string `json:"lease_expires_at"`
}

// shortfall is what an insufficient-credits problem adds.
type shortfall struct {
	Required        meter.Credits `json:"required"`
	Available       meter.Credits `json:"available"`
	Held            meter.Credits `json:"held"`
	AffordableUnits uint32        `json:"affordable_units"`
	Buckets         []bucketView  `json:"buckets"`
	NextResetAt     *string       `json:"next_reset_at"`
	Advice          *adviceView   `json:"advice"`
}

// settledView is what a problem adds whose cause is the state of a reservation. replay-unavailable is one: the request
// was paid, and by which reservation.
type settledView struct {
	Reservation string        `json:"reservation_id"`
	State       string        `json:"state"`
	Reserved    meter.Credits `json:"reserved"`
	Charged     meter.Credits `json:"charged"`
}

type problemView struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      code   `json:"code"`
	RequestID string `json:"request_id"`
	*shortfall
	*fairUseLimit
	*settledView
	*leaseEnd
	*policyProblems
	*fleetView
	*upstreamAnswer
	*readiness
	Error openAIError `json:"error"`
}

// openAIError is what clients made for OpenAI's API read.
type openAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Code    code    `json:"code"`
	Param   *string `json:"param"`
}

// problemWriter renders problems; table is made once, so that a request only reads it.
type problemWriter struct{ table map[code]meaning }

func newProblemWriter() problemWriter { return problemWriter{table: problems()} }

// write makes p the response. Whatever was in the response before is dropped, X-Credits-* headers excepted.
func (w problemWriter) write(resp *fasthttp.Response, p *problem, requestID string) {
	m, ok := w.table[p.code]
	if !ok { // a code without a row is this package's bug, and a 500 in tests and in production
		m = w.table[codeInternal]
	}
	view := problemView{
		Type: "/problems/" + string(p.code), Title: m.title, Status: m.status, Detail: p.detail, Code: p.code,
		RequestID: requestID, shortfall: p.shortfall, fairUseLimit: p.limit, leaseEnd: p.lease, policyProblems: p.mistakes,
		fleetView: p.fleet, upstreamAnswer: p.answer, readiness: p.ready,
		Error: openAIError{Message: p.detail, Type: errorType(m.status), Code: p.code},
	}
	if p.param != "" {
		view.Error.Param = &p.param
	}
	if r := p.outcome; r != nil {
		view.settledView = &settledView{r.ID.String(), r.State.String(), r.Amount, r.Charged}
	}
	body, err := json.Marshal(view)
	if err != nil { // only strings and numbers are in it
		body = []byte(`{"code":"` + string(p.code) + `"}`)
	}
	resp.ResetBody()
	resp.SetStatusCode(m.status)
	resp.Header.SetContentType("application/problem+json")
	resp.Header.Set("Cache-Control", "no-store")
	resp.Header.Set("X-Request-Id", requestID)
	resp.SetBodyRaw(body)
	if p.retryAfter > 0 {
		resp.Header.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	resp.Header.Set("X-Should-Retry", strconv.FormatBool(p.again(m)))
	if p.code == codeUnauthenticated {
		resp.Header.Set("WWW-Authenticate", `Bearer realm="creditgate"`)
	}
}

// again is the answer's X-Should-Retry.
func (p *problem) again(m meaning) bool { return p.retryAfter > 0 || m.retry && !p.final }

// errorType is the coarse class that OpenAI's clients show beside the code.
func errorType(status int) string {
	switch {
	case status == fasthttp.StatusUnauthorized:
		return "authentication_error"
	case status == fasthttp.StatusForbidden:
		return "permission_error"
	case status == fasthttp.StatusPaymentRequired:
		return "insufficient_quota"
	case status == fasthttp.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= fasthttp.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}

// priceProblem says why a request has no price.
func priceProblem(err error) *problem {
	p := &problem{code: codeInvalid, detail: err.Error()}
	if in, ok := errors.AsType[*policy.InputError](err); ok {
		p.param = in.Param
	}
	switch {
	case errors.Is(err, policy.ErrAmbiguous):
		p.code = codeAmbiguousPrice
	case errors.Is(err, policy.ErrEncoding):
		p.code = codeEncoding
	}
	return p
}

// retryMeteringSeconds is how long a client should wait before it asks a gateway again that could not meter: a
// restarted Redis is opened within about that time.
const retryMeteringSeconds = 2

func meteringUnavailable(detail string) *problem {
	return &problem{code: codeMeteringUnavailable, detail: detail, retryAfter: retryMeteringSeconds}
}
