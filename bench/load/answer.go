package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Bounds of an answer.
const (
	linesMax  = 128      // of a head, and of a trailer
	chunksMax = 64 << 10 // of a body
)

const statusOK = 200

var errAnswer = errors.New("no HTTP/1.1 answer that this client reads")

// readAnswer reads one answer and drops its body. keep says that the connection may be used again.
func readAnswer(r *bufio.Reader) (status int, keep bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	if len(line) < len("HTTP/1.1 200\r\n") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, false, fmt.Errorf("%w: %q", errAnswer, line)
	}
	keep = line[7] == '1'
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, fmt.Errorf("%w: %q", errAnswer, line)
	}
	length, chunked := int64(-1), false
	for range linesMax {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return status, keep, dropBody(r, length, chunked)
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case equalFold(name, "content-length"):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, false, fmt.Errorf("%w: %q", errAnswer, line)
			}
		case equalFold(name, "transfer-encoding"):
			chunked = equalFold(value, "chunked")
		case equalFold(name, "connection"):
			keep = keep && !equalFold(value, "close")
		}
	}
	return 0, false, fmt.Errorf("%w: more than %d lines in its head", errAnswer, linesMax)
}

// equalFold compares with a word in lower case. Most headers are ruled out by their length.
func equalFold(b []byte, word string) bool {
	return len(b) == len(word) && bytes.EqualFold(b, []byte(word))
}

func dropBody(r *bufio.Reader, length int64, chunked bool) error {
	switch {
	case chunked:
		return dropChunks(r)
	case length < 0:
		return fmt.Errorf("%w: it has neither a length nor chunks", errAnswer)
	default:
		return drop(r, length)
	}
}

func drop(r *bufio.Reader, n int64) error {
	_, err := r.Discard(int(n))
	return err
}

func dropChunks(r *bufio.Reader) error {
	for range chunksMax {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		digits, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseInt(string(digits), 16, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%w: chunk of size %q", errAnswer, digits)
		}
		if n == 0 {
			return dropTrailer(r)
		}
		if err := drop(r, n+int64(len("\r\n"))); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d chunks: %w", errAnswer, chunksMax, io.ErrShortBuffer)
}

func dropTrailer(r *bufio.Reader) error {
	for range linesMax {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w: more than %d lines in its trailer", errAnswer, linesMax)
}
