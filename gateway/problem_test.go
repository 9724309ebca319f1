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
		"metering-unavailable": 503,
		// Beyond the data plane's table: the control plane's own.
		"pack-not-eligible": 403, "subscription-required": 403, "not-refundable": 409,
		"too-many-grants": 409, "storage-unavailable": 503, "internal-error": 500, "invalid-policy": 422,
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
