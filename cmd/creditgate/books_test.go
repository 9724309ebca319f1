package main_test

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// redisDo sends one command to a private Redis, as somebody who meddles with it would.
func redisDo(t *testing.T, w *world, words ...string) {
	t.Helper()
	conn, err := net.Dial("tcp", w.redis.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	_, err = conn.Write([]byte(b.String()))
	require.NoError(t, err)
	reply := make([]byte, 256)
	n, err := conn.Read(reply)
	require.NoError(t, err)
	require.NotEqual(t, byte('-'), reply[0], string(reply[:n]))
}

func TestInspectAndVerify(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 1), make(chan struct{}, 1)
	w := newWorld(t, func(*http.Request) {
		asked <- struct{}{}
		<-release
	})
	t.Cleanup(func() { close(release) }) // the backend's end waits for its requests
	g := w.serve(t)
	key := g.account(t, "ada", "promo", 1, "purchased", 10)
	done := make(chan reply, 1)
	go func() {
		r, err := generate(t.Context(), http.DefaultClient, g.data, key)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	<-asked
	status, out := command(t, w.env(), "inspect", "account", "ada")
	require.Zero(t, status, out)
	require.Regexp(t, `available +10\n`, out)
	require.Regexp(t, `held +1 in 1 reservations\n`, out)
	require.Regexp(t, `(?m)^promo +[0-9a-f-]{36} +0 +1 +0 +free`, out)
	require.Regexp(t, `(?m)^purchased +[0-9a-f-]{36} +10 +0 +0 +free`, out)
	w.verified(t) // while a request is under way
	release <- struct{}{}
	r := <-done

	status, out = command(t, w.env(), "inspect", "reservation", r.reservation)
	require.Zero(t, status, out)
	require.Regexp(t, `state +committed\n`, out)
	require.Regexp(t, `charged +1\n`, out)
	partition := meter.Layout{Number: 1, Partitions: 1}.PartitionOf("ada")
	status, out = command(t, w.env(), "inspect", "partition", strconv.Itoa(int(partition)))
	require.Zero(t, status, out)
	require.Regexp(t, `state +open\n`, out)
	require.Regexp(t, `ledger +3 records, 1-1 to 1-3\n`, out)
	status, out = command(t, w.env(), "inspect", "account", "nobody")
	require.Equal(t, 1, status)
	require.Contains(t, out, "account nobody is not in Redis")

	// Somebody meddles: a reservation that the account does not know of, then an older state of the account.
	keys := meter.Layout{Number: 1, Partitions: 1}.Keys(partition)
	w.verified(t)
	redisDo(t, w, "HSET", keys.Open(), "0123456789abcdef", string(meter.AppendReservation(nil, meter.Reservation{
		State: meter.Held, Account: "ada", Amount: meter.Credit, DeadlineMs: meter.Never,
	})))
	status, out = command(t, w.env(), "verify")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "held in Redis")
	redisDo(t, w, "HDEL", keys.Open(), "0123456789abcdef")
	w.verified(t)

	redisDo(t, w, "SETRANGE", keys.Account("ada"), "1", "\x00") // its seq
	status, out = command(t, w.env(), "verify")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "Redis is behind Postgres")

	require.NoError(t, w.redis.Kill())
	status, out = command(t, w.env(), "verify")
	require.Equal(t, 2, status, out)
	require.Contains(t, out, "could not check")
}
