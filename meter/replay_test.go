package meter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/redisd"
)

func TestRepeatedAnswerCountsOnce(t *testing.T) {
	t.Parallel()
	layout := meter.Layout{Number: 1, Partitions: 1}
	server := redisd.Test(t)
	store, err := meter.NewReplayStore(server.URL(), layout)
	require.NoError(t, err)
	defer store.Close()
	client, err := meter.NewRedis(server.URL())
	require.NoError(t, err)
	defer client.Close()
	id := layout.NewReservationID(meter.NewID(time.Now()), payer)
	for range 3 {
		stored, err := store.Put(t.Context(), id, []byte("answer"))
		require.NoError(t, err)
		require.True(t, stored)
	}
	answer, ok, err := store.Get(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "answer", string(answer))
	used, err := client.HVals(t.Context(), "{cg1:00}r:used").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"6"}, used)
}
