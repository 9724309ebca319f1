package load

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		status int
		keep   bool
	}{
		"length":        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, true},
		"any case":      {"HTTP/1.1 404 Not Found\r\nCONTENT-length:2\r\n\r\nno", 404, true},
		"no body":       {"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n", 402, true},
		"chunks":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nT: 1\r\n\r\n", 200, true},
		"is closed":     {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n.", 200, false},
		"of HTTP/1.0":   {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n.", 200, false},
		"without words": {"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n.", 200, true},
	} {
		r := bufio.NewReaderSize(strings.NewReader(c.answer+"next"), 64)
		status, keep, err := readAnswer(r)
		require.NoError(t, err, name)
		require.Equal(t, c.status, status, name)
		require.Equal(t, c.keep, keep, name)
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "next", string(rest), name)
	}
	for name, answer := range map[string]string{
		"nonsense":         "SSH-2.0-OpenSSH_9.6\r\n",
		"no number":        "HTTP/1.1 abc OK\r\n\r\n",
		"no length":        "HTTP/1.1 200 OK\r\n\r\n",
		"bad length":       "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"short":            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
		"bad chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"chunks break off": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"head without end": "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", linesMax+1),
		"a line too long":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("A", 100) + ": b\r\n\r\n",
	} {
		_, _, err := readAnswer(bufio.NewReaderSize(strings.NewReader(answer), 64))
		require.Error(t, err, name)
	}
}
