package persist_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// BenchmarkFlush measures how fast a backlog drains, and what it costs Postgres: entries of one line each, as
// one-credit requests leave them. A batch is what one read finds in a partition: 2000 is a full transaction, 640 is
// what 10,000 requests/s leave in each of 4 partitions every 250 ms, and 10 what they leave in each of 256.
func BenchmarkFlush(b *testing.B) {
	for _, c := range []struct{ partitions, accounts, batch, flight int }{
		{1, 4, 2000, 32},
		{1, 250, 640, 32},
		{4, 1000, 640, 32},
		{64, 1000, 40, 10},
		{256, 1000, 10, 5},
	} {
		b.Run(fmt.Sprintf("partitions=%d/accounts=%d/batch=%d", c.partitions, c.accounts, c.batch), func(b *testing.B) {
			benchmarkFlush(b, newBacklog(b, b.N, c.partitions, c.accounts, c.batch, c.flight))
		})
	}
}

func benchmarkFlush(b *testing.B, l *backlog) {
	b.Helper()
	f := persist.NewFlusher(l.store, l, persist.FlushOptions{Every: time.Nanosecond}, prometheus.NewRegistry(), zerolog.Nop())
	server := postmaster(b, l.url)
	own, theirs := cpuOf(b, "self"), cpuBelow(b, server)
	b.ResetTimer()
	stop := inBackground(b, f.Run)
	<-l.drained
	b.StopTimer()
	entries := float64(l.entries)
	b.ReportMetric(entries/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64((cpuBelow(b, server)-theirs).Nanoseconds())/1e3/entries, "postgres-µs/entry")
	b.ReportMetric(float64((cpuOf(b, "self")-own).Nanoseconds())/1e3/entries, "flusher-µs/entry")
	stop()
}

// BenchmarkLoadAccounts measures what it costs to read accounts for Redis, one after the other, and as a rebuild does.
func BenchmarkLoadAccounts(b *testing.B) {
	for _, readers := range []int{1, 256} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			l := newBacklog(b, 1, 1, 1000, 1, 1)
			names := queryAs(b, l.url, `SELECT id::text FROM creditgate.account`)
			server := postmaster(b, l.url)
			theirs := cpuBelow(b, server)
			var all errgroup.Group
			all.SetLimit(readers)
			b.ResetTimer()
			for i := range b.N {
				all.Go(func() error {
					_, _, err := l.store.Account(b.Context(), names[i%len(names)][0].(string))
					return err
				})
			}
			require.NoError(b, all.Wait())
			b.StopTimer()
			b.ReportMetric(float64((cpuBelow(b, server)-theirs).Nanoseconds())/1e3/float64(b.N), "postgres-µs/account")
		})
	}
}

// backlog is a source in memory, so that reading costs less than Redis costs.
type backlog struct {
	url     string
	store   *persist.Store
	epochs  []uint64
	records [][]meter.Record // by partition
	perRead int
	entries int
	left    atomic.Int64 // partitions that are not drained
	drained chan struct{}
}

// newBacklog makes about so many entries, one record to each partition at least, spread evenly over the partitions and their accounts.
func newBacklog(tb testing.TB, entries, partitions, accounts, batch, flight int) *backlog {
	tb.Helper()
	spread := meter.Layout{Number: 1, Partitions: uint16(partitions)}
	url := persisttest.DB(tb)
	l := &backlog{
		url: url, store: persisttest.Open(tb, url, spread), perRead: batch / flight, drained: make(chan struct{}),
		epochs: make([]uint64, partitions), records: make([][]meter.Record, partitions),
	}
	grants := l.addAccounts(tb, spread, accounts)
	seqs := map[string]uint64{}
	for p := range l.records {
		var err error
		l.epochs[p], err = l.store.ClaimEpoch(tb.Context(), uint16(p), 0)
		require.NoError(tb, err)
		turn := 0
		for pseq := uint64(1); pseq <= uint64(max(1, entries/partitions/flight)); pseq++ {
			rec := meter.Record{
				Layout: 1, Partition: uint16(p), Position: meter.Position{Epoch: l.epochs[p], Pseq: pseq}, OccurredMs: startMs,
			}
			for range flight {
				g := grants[p][turn%len(grants[p])]
				turn++
				seqs[g.account]++
				e := commitEntry(g.account, meter.NewID(time.Now()), g.id, meter.Credit, 0, meter.Note{
					Operation: "apply", PolicyVersion: "0123456789abcdef", KeyID: g.id.String(),
				})
				e.Seq = seqs[g.account]
				rec.Entries = append(rec.Entries, e)
			}
			rec.Body = meter.AppendRecord(nil, rec)
			l.records[p] = append(l.records[p], rec)
			l.entries += flight
		}
	}
	l.left.Store(int64(partitions))
	return l
}

type benchGrant struct {
	account string
	id      meter.ID
}

// addAccounts puts accounts with one large grant each straight into the tables, by partition.
func (l *backlog) addAccounts(tb testing.TB, spread meter.Layout, accounts int) [][]benchGrant {
	tb.Helper()
	grants := make([][]benchGrant, spread.Partitions)
	var names []string
	var partitions []int
	var ids [][16]byte
	for n := 0; len(names) < accounts; n++ {
		g := benchGrant{fmt.Sprintf("account-%d", n), meter.NewID(time.Now())}
		p := spread.PartitionOf(g.account)
		if len(grants[p]) >= (accounts+len(grants)-1)/len(grants) {
			continue
		}
		grants[p] = append(grants[p], g)
		names, partitions, ids = append(names, g.account), append(partitions, int(p)), append(ids, g.id)
	}
	conn, err := pgx.Connect(tb.Context(), persisttest.AsOwner(tb, l.url))
	require.NoError(tb, err)
	defer func() { require.NoError(tb, conn.Close(context.WithoutCancel(tb.Context()))) }()
	for _, sql := range []string{
		`INSERT INTO creditgate.account (id, layout, partition, product)
			SELECT name, 1, p, 'studio' FROM unnest($1::text[], $2::int[], $3::uuid[]) u (name, p, id)`,
		`INSERT INTO creditgate.account_state (account, seq)
			SELECT name, 0 * p FROM unnest($1::text[], $2::int[], $3::uuid[]) u (name, p, id)`,
		`INSERT INTO creditgate.grant_lot (id, account, bucket, rank, credits, paid, effective_at, external_ref, fingerprint,
				created_at, status, applied_at)
			SELECT id, name, 'promo', 0 * p, 9007199254740991, false, now(), name, sha256(''), now(), 'applied', now()
			FROM unnest($1::text[], $2::int[], $3::uuid[]) u (name, p, id)`,
		`INSERT INTO creditgate.grant_state (grant_id, account, product, bucket, rank, effective_at, credits, granted)
			SELECT id, name, 'studio', 'promo', 0, now(), 9007199254740991, 9007199254740991 - 0 * p FROM unnest($1::text[], $2::int[], $3::uuid[]) u (name, p, id)`,
	} {
		_, err := conn.Exec(tb.Context(), sql, names, partitions, ids)
		require.NoError(tb, err)
	}
	return grants
}

func (l *backlog) Read(
	ctx context.Context, partition uint16, after meter.Position, limit int, wait time.Duration,
) (*meter.Records, uint64, error) {
	rest := l.records[partition][after.Pseq:]
	if len(rest) == 0 {
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(wait):
		}
	}
	return &meter.Records{List: rest[:min(len(rest), limit, l.perRead)]}, l.epochs[partition], nil
}

func (l *backlog) Flushed(_ context.Context, partition uint16, at, _ meter.Position) error {
	if int(at.Pseq) == len(l.records[partition]) && l.left.Add(-1) == 0 {
		close(l.drained)
	}
	return nil
}

func (l *backlog) Head(_ context.Context, partition uint16) (meter.Position, error) {
	return meter.Position{Epoch: l.epochs[partition], Pseq: uint64(len(l.records[partition]))}, nil
}

func (l *backlog) Reopen(uint16) {}

// postmaster is the process above all of the server's.
func postmaster(b *testing.B, url string) string {
	b.Helper()
	pid := queryAs(b, url, `SELECT pg_backend_pid()`)[0][0]
	return procStat(b, fmt.Sprint(pid))[1]
}

// cpuBelow is the CPU time that a process' children have used, those that have ended too.
func cpuBelow(b *testing.B, parent string) time.Duration {
	b.Helper()
	sum := ticks(b, procStat(b, parent)[13:15])
	dirs, err := os.ReadDir("/proc")
	require.NoError(b, err)
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err == nil {
			if stat := procStat(b, d.Name()); len(stat) > 0 && stat[1] == parent {
				sum += ticks(b, stat[11:13])
			}
		}
	}
	return sum
}

func cpuOf(b *testing.B, pid string) time.Duration {
	b.Helper()
	return ticks(b, procStat(b, pid)[11:13])
}

// procStat is /proc/pid/stat from the state on, which is after the name; empty when the process has ended.
func procStat(b *testing.B, pid string) []string {
	b.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[slices.Index(text, ')')+1:]))
}

// ticks adds up what the kernel counts in hundredths of a second.
func ticks(b *testing.B, fields []string) (sum time.Duration) {
	b.Helper()
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		require.NoError(b, err)
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
