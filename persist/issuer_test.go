package persist_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
	"creditgate/persist"
)

// An account that Postgres refuses is put off; neither its page nor the other products wait for it, and it is given what
// it lacks when it can be.
func TestBadAccountKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.policies.Replace(map[string]*policy.Policy{"studio": s.policy, "the-other": planPolicy(t, 1)})
	for _, name := range []string{"ada", "bob", "cyd", "dan", "eve"} {
		product := "studio"
		if name == "eve" {
			product = "the-other"
		}
		_, err := s.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &product})
		require.NoError(t, err)
		s.put(t, persist.SubscriptionChange{Account: name, Plan: "pro", Slots: new(uint32(2))})
	}
	s.query(t, `CREATE FUNCTION creditgate.refuse_bob() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'not bob' USING ERRCODE = 'check_violation'; END $$`)
	s.query(t, `CREATE TRIGGER bob BEFORE INSERT ON creditgate.grant_lot FOR EACH ROW WHEN (NEW.account = 'bob')
		EXECUTE FUNCTION creditgate.refuse_bob()`)
	metrics := prometheus.NewRegistry()
	issuer := persist.NewIssuer(s.admin, persist.IssueOptions{Page: 3}, metrics, zerolog.Nop())
	issue := func(want int) {
		t.Helper()
		n, err := issuer.Issue(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	s.at(t, "2027-02-01 00:00")
	issue(4)
	issue(0)
	require.InDelta(t, 1, counted(t, metrics, "creditgate_issuer_accounts_total", "failed"), 0)
	s.query(t, `DROP TRIGGER bob ON creditgate.grant_lot`)
	issue(0)
	s.at(t, "2027-02-01 01:01")
	issue(1)
	s.flush(t)
	s.requireNoDrift(t)
}

// counted is a counter's value under its only label.
func counted(t *testing.T, metrics prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
