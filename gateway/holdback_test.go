package gateway

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// drip feeds a body in pieces of n bytes and returns what may go before the settlement.
func drip(t *testing.T, h *holdback, body string, n int) (before, after string) {
	t.Helper()
	var out bytes.Buffer
	p := make([]byte, 7)
	pass := func(settled bool) {
		for m := h.pass(p, settled); m > 0; m = h.pass(p, settled) {
			out.Write(p[:m])
		}
	}
	for rest := body; rest != ""; {
		piece := rest[:min(n, len(rest))]
		rest = rest[len(piece):]
		_, err := h.fill(strings.NewReader(piece))
		require.NoError(t, err)
		pass(false)
	}
	_, err := h.fill(strings.NewReader(""))
	require.ErrorIs(t, err, io.EOF)
	before = out.String()
	pass(true)
	require.True(t, body == out.String()) //nolint:testifylint // the difference would be too long to show
	return before, out.String()[len(before):]
}

func TestHoldbackOfEvents(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"", "data: a\n\n"},
		{"data: a\n\n", "data: b\n\n"},
		{"data: a\ndata: b\n\n", "data: [DONE]\n\n\n\n"},
		{"data: a\r\n\r\n", "data: b\r\n\r\n"},
		{"data: a\r\r", "data: b\r\r"},
		{"data: a\n\ndata: b\n\n", "data: cut"},
		{"", "no event at all"},
	} {
		for n := 1; n < 12; n++ {
			before, after := drip(t, newHoldback(holdMax, true, nil), c[0]+c[1], n)
			require.Equal(t, c[0], before, "in pieces of %d", n)
			require.Equal(t, c[1], after, "in pieces of %d", n)
		}
	}
}

func TestHoldbackIsBounded(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 5*holdMax)
	for _, events := range []bool{false, true} {
		_, after := drip(t, newHoldback(holdMax, events, nil), big, 10_000)
		require.Len(t, after, holdMax)
		_, after = drip(t, newHoldback(0, events, nil), big, 10_000)
		require.Empty(t, after, "a free response is not held back")
	}
	h := newHoldback(holdMax, false, []byte(big)) // read before it exceeded the buffer
	n := h.pass(make([]byte, len(big)), false)
	require.Equal(t, len(big)-holdMax, n)
	_, err := h.fill(strings.NewReader("more"))
	require.NoError(t, err)
	require.Equal(t, 4, h.pass(make([]byte, len(big)), false))
}
