package persist_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

func TestFlushedLedgerIsWhatWasBooked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	note := meter.Note{
		Operation: "apply", PolicyVersion: "v1", KeyID: "key-1", Key: &meter.IdempotencyKey{Hash: [16]byte{1}, Fingerprint: [16]byte{2}},
	}
	id := b.commit("ada", grant, 3*meter.Credit, 2*meter.Credit, note)
	b.flush(t)

	a, at, err := b.store.Account(t.Context(), "ada")
	require.NoError(t, err)
	require.EqualValues(t, 2, at.Pseq)
	require.EqualValues(t, 2, a.Seq)
	require.Len(t, a.Grants, 1)
	require.Equal(t, 7*meter.Credit, a.Grants[0].Available)
	require.Zero(t, a.Grants[0].Held)
	require.Equal(t, at.Pseq, a.PrunedPseq)

	r, _, ok, err := b.store.Outcome(t.Context(), meter.ReservationID{Layout: 1, ID: id})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, meter.Committed, r.State)
	require.Equal(t, 5*meter.Credit, r.Amount)
	require.Equal(t, 3*meter.Credit, r.Charged)
	require.Equal(t, note, r.Note)
	require.Equal(t, []meter.Draw{{Grant: grant, Amount: 5 * meter.Credit, Charged: 3 * meter.Credit}}, r.Draws)
}

func TestFlusherFollowsTheLedger(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.startFlusher(t, persist.FlushOptions{TrimLag: time.Nanosecond})
	for range 20 {
		b.commit("ada", grant, meter.Credit/10, 0, meter.Note{})
	}
	b.awaitFlushed(t)
	require.Eventually(t, func() bool { return b.ledger.flushed(0) == "1-21 1-21" }, 5*time.Second, time.Millisecond,
		"Redis must be told what is flushed and what to trim, last: %s", b.ledger.flushed(0))
}
