package main_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each change on the control plane is a line with who did it. Wrong tokens are slowed down, the right one is not.
func TestChangesAndWrongTokensAreLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	call := func(method, path, body, token string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, g.admin+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("X-Actor", "ada@example.com")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var made struct {
			ID string `json:"id"`
		}
		_ = json.NewDecoder(resp.Body).Decode(&made)
		return resp.StatusCode, made.ID
	}
	logged := func(parts ...string) {
		t.Helper()
		g.await(t, strings.Join(parts, " "), func(line string) bool {
			return containsAll(line, append(parts, `"level":"info"`, `"actor":"ada@example.com"`, `"request_id":"`)...)
		})
	}
	call("PUT", "/v1/accounts/acme", `{}`, adminToken)
	logged(`"route":"PUT /v1/accounts/{account}"`, `"account":"acme"`, `"status":201`)
	call("POST", "/v1/accounts/acme/grants", `{"bucket":"purchased","credits":5,"external_ref":"g1"}`, adminToken)
	logged(`"route":"POST /v1/accounts/{account}/grants"`, `"account":"acme"`, `"target":"0`)
	_, key := call("POST", "/v1/accounts/acme/keys", `{}`, adminToken)
	logged(`/keys"`, `"target":"`+key+`"`, `"status":201`)
	call("DELETE", "/v1/accounts/acme/keys/"+key, ``, adminToken)
	logged(`/keys/{key}"`, `"target":"`+key+`"`, `"status":204`)
	call("POST", "/v1/accounts/acme/grants", `{"bucket":"none","credits":5,"external_ref":"g2"}`, adminToken)
	logged(`/grants"`, `"status":400`, `"message":"control plane change refused"`)
	call("POST", "/v1/reservations", `{"account":"acme","operation":"apply","credits":1}`, adminToken)
	call("PUT", "/v1/accounts/acme", `{}`, adminToken)
	logged(`"route":"PUT /v1/accounts/{account}"`, `"status":200`)
	require.NotContains(t, g.text(), `"route":"POST /v1/reservations"`, "each charge of a service that meters itself must not be a line")

	var guesses sync.WaitGroup
	for range 50 {
		guesses.Go(func() {
			status, _ := call("PUT", "/v1/accounts/acme", `{"suspended":true}`, "wrong")
			if status != http.StatusUnauthorized {
				t.Errorf("a wrong token got %d", status)
			}
		})
	}
	status, _ := call("PUT", "/v1/accounts/acme", `{"suspended":true}`, adminToken)
	require.Less(t, status, 300, "the right token, among wrong ones of the same address")
	logged(`"account":"acme"`, `"status":200`)
	guesses.Wait()
	g.await(t, "that a token was wrong", func(line string) bool {
		return containsAll(line, `"level":"warn"`, `"peer":"127.0.0.1"`, "wrong admin token")
	})
	require.Eventually(t, func() bool {
		return len(g.lines(t, saysOf("wrong admin token"))) == 1
	}, patience, 20*time.Millisecond)
}
