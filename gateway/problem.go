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
	codeConflict             code = "conflict"
	codeTooManyGrants        code = "too-many-grants"
	codeNotEligible          code = "pack-not-eligible"
	codeSubscriptionRequired code = "subscription-required"
	codeNotRefundable        code = "not-refundable"
	codeUpstreamUnreachable  code = "upstream-unreachable"
	codeUpstreamFailed       code = "upstream-failed"
	codeUpstreamTimeout      code = "upstream-timeout"
	codeUpstreamUnavailable  code = "upstream-unavailable"
	codeMeteringUnavailable  code = "metering-unavailable"
	codeStorageUnavailable   code = "storage-unavailable"
	codeInternal             code = "internal-error"
)

type meaning struct {
	status int
	title  string
}

// problems is the one table that turns what went wrong into HTTP. Nothing else in the house knows a status.
func problems() map[code]meaning {
	return map[code]meaning{
		codeUnauthenticated:      {fasthttp.StatusUnauthorized, "No valid API key"},
		codeSuspended:            {fasthttp.StatusForbidden, "Account suspended"},
		codeInsufficient:         {fasthttp.StatusPaymentRequired, "Not enough credits"},
		codeFairUse:              {fasthttp.StatusTooManyRequests, "Fair-use limit reached"},
		codeTooManyInFlight:      {fasthttp.StatusTooManyRequests, "Too many requests in flight"},
		codeAmbiguousPrice:       {fasthttp.StatusBadRequest, "Price is ambiguous"},
		codeInvalid:              {fasthttp.StatusBadRequest, "Invalid request"},
		codeUnpriced:             {fasthttp.StatusNotFound, "Route has no price"},
		codeNotFound:             {fasthttp.StatusNotFound, "Not found"},
		codeEncoding:             {fasthttp.StatusUnsupportedMediaType, "Content encoding not supported"},
		codeTooLarge:             {fasthttp.StatusRequestEntityTooLarge, "Body too large"},
		codeHeadersTooLarge:      {fasthttp.StatusRequestHeaderFieldsTooLarge, "Headers too large"},
		codeInProgress:           {fasthttp.StatusConflict, "Request with this key is in progress"},
		codeMismatch:             {fasthttp.StatusUnprocessableEntity, "Key was used for another request"},
		codeReplayUnavailable:    {fasthttp.StatusConflict, "Answer is no longer stored"},
		codeConflict:             {fasthttp.StatusConflict, "Conflict"},
		codeTooManyGrants:        {fasthttp.StatusConflict, "Too many grants"},
		codeNotEligible:          {fasthttp.StatusForbidden, "Pack is not for this account"},
		codeSubscriptionRequired: {fasthttp.StatusForbidden, "Subscription required"},
		codeNotRefundable:        {fasthttp.StatusConflict, "Not refundable"},
		codeUpstreamUnreachable:  {fasthttp.StatusBadGateway, "Backend unreachable"},
		codeUpstreamFailed:       {fasthttp.StatusBadGateway, "Backend failed"},
		codeUpstreamTimeout:      {fasthttp.StatusGatewayTimeout, "Backend timed out"},
		codeUpstreamUnavailable:  {fasthttp.StatusServiceUnavailable, "Backend unavailable"},
		codeMeteringUnavailable:  {fasthttp.StatusServiceUnavailable, "Metering unavailable"},
		codeStorageUnavailable:   {fasthttp.StatusServiceUnavailable, "Storage unavailable"},
		codeInternal:             {fasthttp.StatusInternalServerError, "Internal error"},
	}
}

// problem is one refusal. Detail says what, where, and how to mend it.
type problem struct {
	code       code
	detail     string
	param      string // the request's name at fault, such as body.n
	retryAfter int    // seconds; 0 for none
	final      bool   // the client must not repeat the request by itself: x-should-retry: false
	shortfall  *shortfall
	limit      *fairUseLimit
	replay     *meter.Reservation
}

// fairUseLimit is what a fair-use-exceeded problem adds; null if it never ends by itself.
type fairUseLimit struct {
	ResetsAt *string `json:"resets_at"`
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

// replayed is what a replay-unavailable problem adds: the request was paid, and by which reservation.
type replayed struct {
	Reservation string        `json:"reservation_id"`
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
	*replayed
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
		RequestID: requestID, shortfall: p.shortfall, fairUseLimit: p.limit,
		Error: openAIError{Message: p.detail, Type: errorType(m.status), Code: p.code},
	}
	if p.param != "" {
		view.Error.Param = &p.param
	}
	if p.replay != nil {
		view.replayed = &replayed{Reservation: p.replay.ID.String(), Charged: p.replay.Charged}
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
	if p.final {
		resp.Header.Set("X-Should-Retry", "false")
	}
	if p.code == codeUnauthenticated {
		resp.Header.Set("WWW-Authenticate", `Bearer realm="creditgate"`)
	}
}

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
