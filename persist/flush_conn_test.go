package persist_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/persist"
)

// 64 partitions share 8 connections, and what several have to write goes into one transaction. One partition's ledger
// has a reservation committed twice, which only Postgres notices.
func TestBrokenPartitionDoesNotStopThoseItSharesAConnectionWith(t *testing.T) {
	t.Parallel()
	const partitions = 64
	l := newBacklog(t, 8*partitions, partitions, partitions, 4, 2)
	require.Greater(t, len(l.records[0]), 2)
	last := &l.records[0][len(l.records[0])-1]
	last.Entries[0].ID = last.Entries[1].ID

	var out log
	reg := prometheus.NewRegistry()
	options := persist.FlushOptions{Every: time.Millisecond, Wait: 20 * time.Millisecond}
	f := persist.NewFlusher(l.store, l, options, reg, zerolog.New(&out))
	stop := inBackground(t, f.Run)
	require.Eventually(t, func() bool {
		return l.left.Load() == 1 && gauge(t, reg, "creditgate_flush_stopped") == 1
	}, 20*time.Second, 5*time.Millisecond, "all but the broken partition must drain, and that one must stop")
	connections := queryAs(t, l.url, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'creditgate flusher%'`)
	require.NotContains(t, out.String(), "flush interrupted", "the others must not notice")
	stop()
	require.Equal(t, [][]any{{int64(8)}}, connections)
	require.Equal(t, [][]any{{int64(partitions - 1), true}}, queryAs(t, l.url, `SELECT
		count(*) FILTER (WHERE cursor_pseq = $1), bool_and(cursor_pseq = (SELECT coalesce(max(pseq), 0)
			FROM creditgate.ledger_record r WHERE r.partition = p.partition))
		FROM creditgate.partition p`, len(l.records[0])), "each cursor is at its partition's last record")
}
