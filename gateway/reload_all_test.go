package gateway_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
)

// Without Postgres the gateway that is asked has reloaded, and says that of the others it does not know.
func TestReloadWithoutPostgres(t *testing.T) {
	t.Parallel()
	b := setup(t, inForce(rules(t, "draw", "/draw", "3")))
	b.files(rules(t, "draw", "/draw", "4"))
	b.house.fail(errors.New("connection refused"))
	r := b.reload()
	require.Equal(t, 503, r.StatusCode, "%s", r.body)
	require.Equal(t, "storage-unavailable", r.json(t)["code"])
	require.Contains(t, r.json(t)["detail"], "this gateway has reloaded its policies; whether the others did is not known")
	b.house.fail(nil)
	key := b.account("acme", 100_000)
	require.Equal(t, "4", b.post("/draw", key, "").Header.Get("X-Credits-Charged"))
	require.Equal(t, 200, b.reload().StatusCode)
}

// What only waits for a gateway may be repeated at once; what waits for its files may not.
func TestReloadNamesGatewaysThatDiffer(t *testing.T) {
	t.Parallel()
	old := rules(t, "draw", "/draw", "3")
	b := setup(t, inForce(old))
	b.files(old)
	own := map[string]string{"studio": old.Version()}
	for _, c := range []struct {
		other  gateway.Standing
		says   string
		repeat bool
	}{
		{gateway.Standing{Name: "there:1", Policies: own}, "there:1 did not answer within 5s", true},
		{gateway.Standing{Name: "there:1", Policies: own, Reload: 9, Error: "b.yaml:1:1: bad"}, "there:1 keeps its policies", false},
		{gateway.Standing{Name: "there:1", Policies: map[string]string{}, Reload: 9}, "there:1 has other files", false},
	} {
		b.house.mu.Lock()
		b.house.fleet.others = []gateway.Standing{c.other}
		b.house.mu.Unlock()
		r := b.reload()
		require.Equal(t, 409, r.StatusCode, "%s", r.body)
		p := r.json(t)
		require.Equal(t, "policies-differ", p["code"])
		require.Contains(t, p["detail"], c.says)
		require.NotContains(t, p["detail"], "own:1")
		require.Len(t, p["gateways"], 2)
		require.Equal(t, c.repeat, r.Header.Get("X-Should-Retry") == "true")
		require.Equal(t, c.repeat, r.Header.Get("Retry-After") != "")
	}
}

// A gateway follows a request once, one from before its start not at all, and also one whose number is lower than the last:
// Postgres was restored to an older copy.
func TestRequestsAreFollowedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, inForce(rules(t, "draw", "/draw", "3")), func(o *gateway.Options) {
		house := o.Source.(*house)
		house.fleet.newest, house.fleet.age = 7, time.Hour
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		b.gateway.FollowReloads(ctx)
		close(ended)
	}()
	reloads := func() float64 { return b.figure(t, `creditgate_policy_reloads_total{result="loaded"}`) }
	follows := func(number int64) {
		t.Helper()
		require.Eventually(t, func() bool {
			b.house.mu.Lock()
			defer b.house.mu.Unlock()
			return b.house.fleet.own != nil && b.house.fleet.own.Reload == number
		}, 20*time.Second, time.Millisecond)
	}
	request := func(number int64) {
		b.house.mu.Lock()
		defer b.house.mu.Unlock()
		b.house.fleet.newest, b.house.fleet.age = number, 0
	}
	follows(7)
	require.Zero(t, reloads())
	b.files(rules(t, "draw", "/draw", "4"))
	request(9)
	follows(9)
	require.InDelta(t, 1, reloads(), 0)
	b.house.fail(errors.New("connection refused"))
	request(8)
	b.house.fail(nil)
	follows(8)
	require.InDelta(t, 2, reloads(), 0)
	require.Equal(t, 200, b.reload().StatusCode)
	follows(9)
	require.InDelta(t, 3, reloads(), 0, "its own request is not followed a second time")
	stop()
	<-ended
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	require.Nil(t, b.house.fleet.own, "it has left")
}
