package meter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// A Redis that a failover left behind still has the meta of an older epoch: what it says is not flushed.
func TestRedisLeftBehindIsNotRead(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	p := r.layout.PartitionOf(payer)
	read := func(after meter.Position) ([]meter.Record, error) {
		records, _, err := r.engines[0].Ledger().Read(r.ctx, p, after, 10, 10*time.Millisecond)
		if err != nil {
			return nil, err
		}
		return records.List, nil
	}
	records, err := read(meter.Position{})
	require.NoError(t, err)
	require.Len(t, records, 1)
	none, err := read(records[0].Position)
	require.NoError(t, err)
	require.Empty(t, none)

	r.reopen() // to epoch 2
	require.NoError(t, metertest.EditMeta(r.ctx, r.client, r.layout.Keys(p), func(m *meter.Meta) { m.Epoch = 1 }))
	_, err = read(meter.Position{})
	require.ErrorIs(t, err, meter.ErrUnavailable)
}

// A record that comes while Read waits is read with the same care as one that was there.
func TestReadWaitsForTheFirstRecord(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	type result struct {
		records *meter.Records
		epoch   uint64
		err     error
	}
	done := make(chan result, 1)
	after := meter.Position{Epoch: 1, Pseq: 1}
	go func() {
		records, epoch, err := r.engines[1].Ledger().Read(r.ctx, r.layout.PartitionOf(payer), after, 10, patience)
		done <- result{records, epoch, err}
	}()
	require.Eventually(t, func() bool {
		return r.client.InfoMap(r.ctx, "clients").Item("Clients", "blocked_clients") == "1"
	}, patience, 5*time.Millisecond)
	r.grant(1)
	got := <-done
	require.NoError(t, got.err)
	require.Equal(t, uint64(1), got.epoch)
	require.Len(t, got.records.List, 1)
	require.Equal(t, meter.Position{Epoch: 1, Pseq: 2}, got.records.List[0].Position)
}

func TestHeadIsOfOneMoment(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	p := r.layout.PartitionOf(payer)
	require.NoError(t, metertest.EditMeta(r.ctx, r.client, r.layout.Keys(p), func(m *meter.Meta) { m.Epoch = 7 }))
	head, err := r.engines[0].Ledger().Head(r.ctx, p)
	require.NoError(t, err)
	require.Equal(t, meter.Position{Epoch: 7, Pseq: 1}, head)
}
