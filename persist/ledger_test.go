package persist_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// fileLedger stands in for Redis: a ledger per partition in a file, written by the test and read by flushers, also
// in another process. It keeps what Redis keeps: records after trimming, the flush mark, the epoch it runs under.
type fileLedger struct {
	dir string

	mu       sync.Mutex
	epoch    uint64
	reopened int
	written  chan struct{} // closed and replaced at each append
}

func newFileLedger(dir string) *fileLedger {
	return &fileLedger{dir: dir, epoch: 1, written: make(chan struct{})}
}

func (l *fileLedger) path(kind string, partition uint16) string {
	return filepath.Join(l.dir, fmt.Sprintf("%s-%d", kind, partition))
}

// append writes one record: position, length, body.
func (l *fileLedger) append(tb testing.TB, rec meter.Record) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(l.path("ledger", rec.Partition), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(tb, err)
	body := meter.AppendRecord(nil, rec)
	b := binary.LittleEndian.AppendUint64(nil, rec.Epoch)
	b = binary.LittleEndian.AppendUint64(b, rec.Pseq)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	_, err = f.Write(append(b, body...))
	require.NoError(tb, err)
	require.NoError(tb, f.Close())
	close(l.written)
	l.written = make(chan struct{})
}

func (l *fileLedger) all(partition uint16) ([]meter.Record, error) {
	b, err := os.ReadFile(l.path("ledger", partition))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []meter.Record
	for r := bytes.NewReader(b); r.Len() > 0; {
		head := make([]byte, 20)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, err
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[16:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		rec, err := meter.UnpackRecord(body)
		if err != nil {
			return nil, err
		}
		rec.Layout, rec.Partition = layout.Number, partition
		rec.Epoch, rec.Pseq = binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint64(head[8:])
		out = append(out, rec)
	}
	return out, nil
}

func (l *fileLedger) Read(
	ctx context.Context, partition uint16, after meter.Position, limit int, wait time.Duration,
) (*meter.Records, uint64, error) {
	timeout := time.After(wait)
	for {
		l.mu.Lock()
		written, epoch := l.written, l.epoch
		records, err := l.all(partition)
		l.mu.Unlock()
		if err != nil {
			return nil, 0, err
		}
		var out []meter.Record
		for _, r := range records {
			if (r.Epoch > after.Epoch || r.Epoch == after.Epoch && r.Pseq > after.Pseq) && len(out) < limit {
				out = append(out, r)
			}
		}
		if len(out) > 0 {
			return &meter.Records{List: out}, epoch, nil
		}
		select {
		case <-written:
		case <-timeout:
			return &meter.Records{}, epoch, nil
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (l *fileLedger) Flushed(_ context.Context, partition uint16, at, trimTo meter.Position) error {
	text := fmt.Sprintf("%s %s", at, trimTo)
	return os.WriteFile(l.path("flushed", partition), []byte(text), 0o600)
}

// flushed is what the flusher last said, "" if nothing.
func (l *fileLedger) flushed(partition uint16) string {
	b, _ := os.ReadFile(l.path("flushed", partition))
	return string(b)
}

func (l *fileLedger) Head(_ context.Context, partition uint16) (meter.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	records, err := l.all(partition)
	if err != nil || len(records) == 0 {
		return meter.Position{Epoch: l.epoch}, err
	}
	return meter.Position{Epoch: l.epoch, Pseq: records[len(records)-1].Pseq}, nil
}

func (l *fileLedger) Reopen(uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reopened++
}

func (l *fileLedger) setEpoch(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = epoch
}
