package gateway

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// TestProblemTable holds the table to the HTTP contract.
func TestProblemTable(t *testing.T) {
	t.Parallel()
	contract := map[code]int{
		"unauthenticated": 401, "account-suspended": 403, "insufficient-credits": 402, "fair-use-exceeded": 429,
		"too-many-in-flight": 429, "ambiguous-price": 400, "invalid-request": 400, "unpriced-route": 404,
		"not-found": 404, "unsupported-encoding": 415, "payload-too-large": 413, "headers-too-large": 431,
		"request-in-progress": 409, "idempotency-mismatch": 422, "replay-unavailable": 409, "conflict": 409,
		"upstream-unreachable": 502, "upstream-failed": 502, "upstream-timeout": 504, "upstream-unavailable": 503,
		"metering-unavailable": 503, "upstream-uncountable": 502,
		// Beyond the data plane's table: the control plane's own.
		"pack-not-eligible": 403, "subscription-required": 403, "not-refundable": 409,
		"change-refused": 409, "grant-used-up": 409, "exceeds-grant": 409, "reservation-committed": 409,
		"reservation-released": 409, "reservation-expired": 409, "amount-conflict": 409, "amount-exceeds-hold": 400,
		"too-many-grants": 409, "storage-unavailable": 503, "internal-error": 500, "invalid-policy": 422, "policies-differ": 409,
	}
	table := problems()
	require.Len(t, table, len(contract))
	w := newProblemWriter()
	for c, status := range contract {
		require.Equal(t, status, table[c].status, c)
		require.NotEmpty(t, table[c].title, c)
		var resp fasthttp.Response
		w.write(&resp, &problem{code: c, detail: "why", param: "body.n"}, "id")
		var out map[string]any
		require.NoError(t, json.Unmarshal(resp.Body(), &out))
		require.Equal(t, status, resp.StatusCode())
		require.Equal(t, "/problems/"+string(c), out["type"])
		require.Equal(t, string(c), out["code"])
		require.EqualValues(t, status, out["status"])
		require.Equal(t, "id", out["request_id"])
		require.Equal(t, map[string]any{"message": "why", "type": errorType(status), "code": string(c), "param": "body.n"},
			out["error"])
	}
}

// TestShouldRetry states X-Should-Retry of every code, and why. A code without a line here fails.
func TestShouldRetry(t *testing.T) {
	t.Parallel()
	reasons := map[code]struct{ retry, why string }{
		codeUnauthenticated:      {"false", "the same key stays unknown"},
		codeSuspended:            {"false", "an operator has to lift it"},
		codeInsufficient:         {"false", "credit has to be bought or renewed first"},
		codeFairUse:              {"false", "it ends at resets_at, days away"},
		codeTooManyInFlight:      {"true", "it ends with the account's own requests"},
		codeAmbiguousPrice:       {"false", "the request itself is at fault"},
		codeInvalid:              {"false", "the request itself is at fault"},
		codeUnpriced:             {"false", "the policy has no such route"},
		codeNotFound:             {"false", "there is no such thing"},
		codeEncoding:             {"false", "the request itself is at fault"},
		codeTooLarge:             {"false", "the request itself is at fault"},
		codeHeadersTooLarge:      {"false", "the request itself is at fault"},
		codeInProgress:           {"true", "the first request's answer comes"},
		codeMismatch:             {"false", "the key stays taken by another request"},
		codeReplayUnavailable:    {"false", "the answer does not come back; a new key would be charged again"},
		codeConflict:             {"false", "the reference stays taken"},
		codeChangeRefused:        {"false", "it contradicts a recorded fact"},
		codeGrantUsedUp:          {"false", "nothing is left of the grant"},
		codeExceedsGrant:         {"false", "the grant has less"},
		codeCommitted:            {"false", "the outcome is final"},
		codeReleased:             {"false", "the outcome is final"},
		codeExpired:              {"false", "the outcome is final"},
		codeAmountConflict:       {"false", "the outcome is final"},
		codeExceedsHold:          {"false", "the hold stays as it is"},
		codeTooManyGrants:        {"false", "grants have to be used up or revoked first"},
		codeNotEligible:          {"false", "the plan has to change first"},
		codeSubscriptionRequired: {"false", "a subscription has to begin first"},
		codeNotRefundable:        {"false", "the policy forbids it"},
		codeUpstreamUnreachable:  {"true", "nothing was sent or charged"},
		codeUpstreamFailed:       {"true", "nothing was charged, and the key allows a new attempt"},
		codeUpstreamTimeout:      {"true", "nothing was charged, and the key allows a new attempt"},
		codeUpstreamUnavailable:  {"true", "the breaker tries the backend again soon"},
		codeUpstreamUncountable:  {"false", "the policy's rule, or the backend, has to be mended first"},
		codeMeteringUnavailable:  {"true", "Redis comes back"},
		codeStorageUnavailable:   {"true", "Postgres comes back, and a reference makes a repeat safe"},
		codeInvalidPolicy:        {"false", "the files have to be mended first"},
		codePoliciesDiffer:       {"false", "the files have to be made the same first, unless it only waits for a gateway"},
		codeInternal:             {"true", "nothing was charged, and another request may not meet the bug"},
	}
	w := newProblemWriter()
	header := func(p *problem) (retry, after string) {
		var resp fasthttp.Response
		w.write(&resp, p, "id")
		return string(resp.Header.Peek("X-Should-Retry")), string(resp.Header.Peek("Retry-After"))
	}
	for c := range w.table {
		require.NotEmpty(t, reasons[c].why, "%s: say whether a repeat helps, and why", c)
		retry, _ := header(&problem{code: c})
		require.Equal(t, reasons[c].retry, retry, "%s: %s", c, reasons[c].why)
		retry, after := header(&problem{code: c, retryAfter: 3})
		require.Equal(t, [2]string{"true", "3"}, [2]string{retry, after}, "%s: a wait is stated where a repeat helps", c)
		retry, _ = header(&problem{code: c, final: true})
		require.Equal(t, "false", retry, "%s: of this problem no repeat helps", c)
	}
}

// TestOnlyTheTableKnowsStatuses: an error status written anywhere else would be a second truth.
func TestOnlyTheTableKnowsStatuses(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	status := regexp.MustCompile(`fasthttp\.Status([A-Z]\w*)|SetStatusCode\((\d+)`)
	fine := map[string]bool{
		"Status OK": true, "Status Created": true, "Status Accepted": true, "Status NoContent": true,
		"Status Continue": true, "Status InternalServerError": true, // as a bound: what is a backend's failure
	}
	for _, f := range files {
		if f == "problem.go" || strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, m := range status.FindAllStringSubmatch(string(src), -1) {
			require.True(t, fine["Status "+m[1]], "%s: %s", f, m[0])
		}
	}
}
