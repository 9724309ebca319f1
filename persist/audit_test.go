package persist_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/persist"
)

// What a change overwrites or deletes is noted in its own transaction, with the actor, and cannot be changed.
func TestAuditKeepsWhatIsOverwritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	yes, no := true, false
	for _, c := range []persist.AccountChange{
		{Account: "ada", Suspended: &yes, Actor: "eve"},
		{Account: "ada", Suspended: &yes, Actor: "repeated"},
		{Account: "ada", Suspended: &no, Actor: "bob"},
	} {
		_, err := b.admin.PutAccount(t.Context(), c)
		require.NoError(t, err)
	}
	require.Equal(t, [][]any{
		{"eve", "account suspended", "ada", false}, {"bob", "account resumed", "ada", true},
	}, b.query(t, `SELECT actor, action, account, (before ->> 'suspended')::boolean FROM creditgate.overwritten ORDER BY id`))
	refused(t, b.url, `DELETE FROM creditgate.overwritten`)
	refused(t, b.url, `INSERT INTO creditgate.overwritten (actor, action, target, before) VALUES ('x', 'x', 'x', '{}')`)
	require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT count(*) FROM creditgate.audit WHERE account = 'ada' AND action LIKE 'account %'`))
}

// Rows without an actor of their own have the actor of their transaction.
func TestAuditNamesWhoEndsAnOverrideOrDeletesAWebhook(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	b.exec(t, `INSERT INTO creditgate.override (external_ref, account, kind, target, credits, from_at, fingerprint, actor)
		VALUES ('deal', 'ada', 'contingent', 'monthly', 1, now(), sha256('x'), 'eve')`)
	b.exec(t, `INSERT INTO creditgate.webhook (name, url, secret, actor) VALUES ('crm', 'https://crm.example', 'hidden', 'eve')`)
	b.exec(t, `BEGIN; SELECT set_config('creditgate.actor', 'bob', true);
		UPDATE creditgate.override SET until_at = from_at; DELETE FROM creditgate.webhook; COMMIT`)
	require.Equal(t, [][]any{{"bob", "override ended", "deal"}, {"bob", "webhook deleted", "crm"}},
		b.query(t, `SELECT actor, action, target FROM creditgate.overwritten ORDER BY id`))
	require.Equal(t, [][]any{{int64(0)}},
		b.query(t, `SELECT count(*) FROM creditgate.overwritten WHERE before::text LIKE '%hidden%'`))
}
