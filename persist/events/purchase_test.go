package events_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist/events"
)

// buy records a purchase of ten credits as the shop's route does, so long ago.
func (h *house) buy(t *testing.T, account, ref string, grant *meter.ID, ago time.Duration) {
	t.Helper()
	h.query(t, `INSERT INTO creditgate.purchase (id, external_ref, account, product, policy_version, pack, quantity, bucket,
			rank, credits, list_minor, net_minor, tax_minor, refundable, write_off, currency, follows_renewal, purchased_at,
			grant_id, fingerprint, recorded_at)
		VALUES (gen_random_uuid(), $1, $2, 'studio', 'v', 'plus-10', 1, 'purchased', 2, 10000, 900, 900, 0, false, true, 'EUR',
			false, now(), $3, sha256(''), now() - $4::interval) RETURNING 1`, ref, account, (*[16]byte)(grant), ago)
}

func TestPurchasesThatWaitAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.account(t, "ada")
	h.buy(t, "ada", "unpaid", nil, 10*time.Second)
	h.buy(t, "ada", "just-now", nil, 0)
	granted := h.grant(t, "ada", "purchased", 10, time.Time{}, time.Time{})
	h.buy(t, "ada", "granted", &granted, 10*time.Second)
	away := h.grant(t, "ada", "purchased", 10, time.Time{}, time.Time{})
	require.Eventually(t, func() bool {
		return h.query(t, `SELECT count(*) FROM creditgate.grant_lot WHERE status = 'pending'`)[0][0].(int64) == 0
	}, 10*time.Second, 10*time.Millisecond)
	h.query(t, `UPDATE creditgate.grant_lot SET status = 'pending', applied_at = NULL WHERE id = $1 RETURNING 1`, [16]byte(away))
	h.buy(t, "ada", "redis-away", &away, 10*time.Second)
	for i := range 3 { // as in one second
		h.buy(t, "ada", fmt.Sprintf("unpaid-%d", i), nil, 10*time.Second)
	}
	stop := h.produce(t)
	require.Eventually(t, func() bool { return len(h.told(t, events.TypePurchasePending)) >= 5 }, 10*time.Second, 10*time.Millisecond)
	told := h.told(t, events.TypePurchasePending)
	require.Contains(t, told, `purchase.pending ada {"bucket":"purchased","credits":10,"expires_at":null,"pack":"plus-10",`+
		`"purchase_ref":"unpaid","quantity":1,"state":"awaiting_payment"}`)
	require.Contains(t, told, `purchase.pending ada {"bucket":"purchased","credits":10,"expires_at":null,"pack":"plus-10",`+
		`"purchase_ref":"redis-away","quantity":1,"state":"pending"}`)
	require.NotContains(t, fmt.Sprint(told), `"just-now"`)
	stop()
	h.query(t, `UPDATE creditgate.event_walk SET at = now() WHERE name = 'purchases' RETURNING 1`)
	h.buy(t, "ada", "slow-to-commit", nil, 30*time.Second)
	h.produce(t)
	require.Eventually(t, func() bool {
		return fmt.Sprint(h.told(t, events.TypePurchasePending)) != fmt.Sprint(told)
	}, 10*time.Second, 10*time.Millisecond)
	require.ElementsMatch(t, []string{
		`purchase.applied ada {"bucket":"purchased","credits":10,"expires_at":null,"pack":"plus-10","purchase_ref":"granted",` +
			`"quantity":1,"state":"granted"}`,
		`purchase.applied ada {"bucket":"purchased","credits":10,"expires_at":null,"pack":"plus-10",` +
			`"purchase_ref":"redis-away","quantity":1,"state":"granted"}`,
	}, h.told(t, events.TypePurchaseApplied))
	h.requireDense(t)
}
