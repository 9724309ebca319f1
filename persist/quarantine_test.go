package persist_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// A fault of one account's records does not keep the others from Postgres.
func TestOneAccountIsQuarantined(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		account, reason string
		entries         func(grant meter.ID) []meter.Entry // after one grant and one commit of ada's: seq 2
	}{
		"a gap in account seq": {"ada", `account "ada" is at seq 2 and the ledger goes on with 4`, func(g meter.ID) []meter.Entry {
			return []meter.Entry{next(4, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{}))}
		}},
		"a gap in account seq inside a record": {"ada", "account seq 5 follows 3", func(g meter.ID) []meter.Entry {
			return []meter.Entry{
				next(3, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{})),
				next(5, commitEntry("ada", meter.ID{2}, g, 1, 0, meter.Note{})),
			}
		}},
		"an unknown account": {"eve", `account "eve" is not in Postgres`, func(meter.ID) []meter.Entry {
			return []meter.Entry{{Kind: meter.KindUncollected, Account: "eve", Seq: 1, ID: meter.ID{1}, Amount: 1}}
		}},
		"an unknown grant": {"ada", "0 of 1 grants are as the ledger says", func(meter.ID) []meter.Entry {
			return []meter.Entry{next(3, commitEntry("ada", meter.ID{1}, meter.ID{9}, 1, 0, meter.Note{}))}
		}},
		"a lost grant": {"ada", "0 of 1 grant_lot rows are as the ledger says", func(meter.ID) []meter.Entry {
			return []meter.Entry{{
				Kind: meter.KindGrant, Account: "ada", Seq: 3, ID: meter.ID{9}, Amount: meter.Credit,
				Lines: []meter.Line{{Grant: meter.ID{9}, Granted: meter.Credit}},
			}}
		}},
		"a lost revocation": {"ada", "0 of 1 revocation rows are as the ledger says", func(g meter.ID) []meter.Entry {
			return []meter.Entry{{
				Kind: meter.KindRevoke, Account: "ada", Seq: 3, ID: meter.ID{9}, Amount: meter.Credit,
				Lines: []meter.Line{{Grant: g, Revoked: meter.Credit}},
			}}
		}},
		"a lost expiry move": {"ada", "0 of 1 expiry_move rows are as the ledger says", func(g meter.ID) []meter.Entry {
			return []meter.Entry{{Kind: meter.KindAdjust, Account: "ada", Seq: 3, ID: meter.ID{9}, Lines: []meter.Line{{Grant: g}}}}
		}},
		"amounts that do not add up": {"ada", "its lines account for 0.001 of 5 credits", func(g meter.ID) []meter.Entry {
			e := next(3, commitEntry("ada", meter.ID{1}, g, 1, 0, meter.Note{}))
			e.Amount = 5 * meter.Credit
			return []meter.Entry{e}
		}},
		"more spent than granted": {"ada", "grant_state_conserves", func(g meter.ID) []meter.Entry {
			return []meter.Entry{next(3, commitEntry("ada", meter.ID{1}, g, 11*meter.Credit, 0, meter.Note{}))}
		}},
		"a line that does not conserve": {"ada", "ledger_line_conserves", func(g meter.ID) []meter.Entry {
			e := next(3, commitEntry("ada", meter.ID{1}, g, 0, 1, meter.Note{}))
			e.Lines[0].Lapsed = 2
			return []meter.Entry{e}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			grant, other := b.addAccount(t, "ada"), b.addAccount(t, "bob")
			b.commit("ada", grant, meter.Credit, 0, meter.Note{})
			b.flush(t)
			good := next(2, commitEntry("bob", meter.ID{0xb}, other, 1, 0, meter.Note{}))
			b.record(4, append([]meter.Entry{good}, c.entries(grant)...)...)
			b.record(5, next(3, commitEntry("bob", meter.ID{0xbb}, other, 1, 0, meter.Note{})))

			var out log
			reg := prometheus.NewRegistry()
			f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.New(&out))
			stop := inBackground(t, f.Run)
			b.awaitFlushed(t)
			require.Eventually(t, func() bool { return gauge(t, reg, "creditgate_ledger_quarantined_accounts") == 1 },
				5*time.Second, 5*time.Millisecond)
			require.Positive(t, gauge(t, reg, "creditgate_ledger_lag_seconds"), "what is quarantined lags")
			require.Zero(t, gauge(t, reg, "creditgate_flush_stopped"))
			stop()
			require.Contains(t, out.String(), `"named":["`+c.account+`"]`)
			require.Equal(t, [][]any{{int64(3)}}, b.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'bob'`))
			require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT seq FROM creditgate.account_state WHERE account = 'ada'`))
			found := b.query(t, `SELECT account, reason FROM creditgate.quarantined_account`)
			require.Len(t, found, 1)
			require.Equal(t, c.account, found[0][0])
			require.Contains(t, found[0][1], c.reason)
			require.Equal(t, [][]any{{int64(5)}}, b.query(t, `SELECT count(*) FROM creditgate.ledger_record`))
			require.Equal(t, [][]any{{int64(len(c.entries(grant)))}}, b.query(t, `SELECT count(*) FROM creditgate.quarantined_entry`))
		})
	}
}
