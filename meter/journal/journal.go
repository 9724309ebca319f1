package journal

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"creditgate/meter"
)

var (
	// ErrWrite says that the settlement could not be written.
	ErrWrite = errors.New("could not write")
	// ErrFull says that the journal holds as much as it may. The settlement is not journalled. It is an ErrWrite too.
	ErrFull = fmt.Errorf("%w: journal is full", ErrWrite)
	// ErrClosed says that the journal was closed.
	ErrClosed = errors.New("journal is closed")
)

// Journal is an open directory. Its methods may be called concurrently.
type Journal struct {
	dir      string
	opts     Options
	log      zerolog.Logger
	disk     disk
	lock     *os.File
	recovery Recovery
	metrics  metrics
	wake     chan struct{} // capacity 1: set when an entry was added

	// flight is a mutex that can be waited for together with a batch: who has it may write. It guards the
	// segments' files and the next five.
	flight     chan struct{}
	active     *segment // nil after a failed write: the next one begins a segment
	nextNumber uint64
	flown      uint64 // the first sequence number that no flight has taken yet
	broken     error  // a failed write that could not be taken back
	buf        []byte // reused by encode

	mu       sync.Mutex // guards what follows; never held while the disk is asked
	segments []*segment
	pending  map[uint64]held
	open     *batch // what is to be written by the next flight
	nextSeq  uint64
	bytes    int64 // of all segments
	queued   int64 // of entries in batches not yet written
	unsynced int   // entries in batches not yet written
	closed   bool
}

// held is a pending entry and the segment it stands in.
type held struct {
	Entry
	in *segment
}

// Open takes the directory, creating it if need be, reads what is in it, and is ready to append. Errors are
// ErrLocked, ErrCorrupt (a *CorruptError), and the file system's.
func Open(dir string, opts Options) (*Journal, error) {
	return openOn(osDisk{}, dir, opts)
}

func openOn(d disk, dir string, opts Options) (*Journal, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := makeDir(d, filepath.Clean(dir)); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, opts: opts, log: opts.Log, disk: d, lock: lock,
		wake: make(chan struct{}, 1), flight: make(chan struct{}, 1),
		pending: map[uint64]held{}, open: newBatch(), nextSeq: 1, nextNumber: 1,
	}
	err = j.recover()
	j.flown = j.nextSeq
	if err == nil {
		err = j.begin()
	}
	if err != nil {
		_ = unlockDir(lock)
		return nil, err
	}
	j.deleteFinished()
	j.metrics = newMetrics(opts.Metrics, j)
	if r := j.recovery; r.Entries > 0 {
		j.log.Info().Int("entries", r.Entries).Int("segments", r.Segments).Msg("journal: settlements to repeat")
	}
	return j, nil
}

// makeDir makes dir and what is missing above it, each durable in its parent.
func makeDir(d disk, dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() { //nolint:gosec // G703: the operator names the directory
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(d, parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // G703: as above
		return fmt.Errorf("journal: make directory: %w", err)
	}
	if err := d.syncDir(parent); err != nil {
		return fmt.Errorf("journal: sync directory %s: %w", parent, err)
	}
	return nil
}

// Append makes a settlement durable and returns its sequence number. It returns only after the disk confirmed;
// callers that come while the disk is busy share the next confirmation. It cannot be cancelled: a journal entry
// that may or may not exist is what the journal is there to prevent. After an error other than ErrFull, ErrClosed
// and ErrEntry the entry may still be found when the directory is opened again; repeating it is safe.
func (j *Journal) Append(verb Verb, s meter.Settle, attempted time.Time) (seq uint64, err error) {
	s.Until, s.Brief = time.Time{}, false // the first attempt's only: each repeat has its own time, as after a restart
	e := Entry{Verb: verb, Settle: s, AttemptedMs: attempted.UnixMilli()}
	if err := e.check(); err != nil {
		return 0, fmt.Errorf("journal: append %s: %w", s.ID, err)
	}
	b, seq, err := j.join(e, appendEntry(nil, e))
	if err != nil {
		return 0, err
	}
	if err := j.fly(b); err != nil {
		return 0, err
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return seq, nil
}

// Ack marks entries as settled: they are not pending any more, and their segments are deleted once all of their
// entries are marked. The marks reach the disk with the next sync; if they are lost the entries are repeated,
// which changes nothing. Numbers that are not pending are ignored. An error means that the marks were not
// written; the entries are not pending in this process all the same.
func (j *Journal) Ack(seqs ...uint64) error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	b := j.open
	marks := len(b.marks)
	for _, seq := range seqs {
		if h, ok := j.pending[seq]; ok {
			j.settle(h)
			b.marks = append(b.marks, mark{seq: seq, of: h.in})
		}
	}
	none := len(b.marks) == marks
	j.mu.Unlock()
	if none {
		return nil
	}
	return j.fly(b)
}

// settle takes an entry off the list. The caller has the mutex, or is alone.
func (j *Journal) settle(h held) {
	delete(j.pending, h.Seq)
	h.in.pending--
}

// Pending lists the entries that are durable and not settled, oldest first.
func (j *Journal) Pending() []Entry {
	return j.pendingIf(func(*Entry) bool { return true })
}

func (j *Journal) pendingIf(keep func(*Entry) bool) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []Entry
	for _, h := range j.pending {
		if keep(&h.Entry) {
			list = append(list, h.Entry)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return list
}

// Len is the number of pending entries.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending)
}

// Bytes is the size of all segments.
func (j *Journal) Bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes
}

// Recovery is what Open found.
func (j *Journal) Recovery() Recovery { return j.recovery }

// Close writes what is under way, seals the newest segment and gives the directory back. Appends that come later
// fail with ErrClosed. It may be called twice.
func (j *Journal) Close() error {
	j.flight <- struct{}{}
	defer func() { <-j.flight }()
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	j.flush() // its callers learn the outcome; nobody can join any more
	var err error
	if j.active != nil && j.broken == nil {
		err = j.active.seal()
	}
	if j.active != nil && j.active.f != nil {
		err = errors.Join(err, j.active.f.Close())
	}
	j.active = nil
	return errors.Join(err, unlockDir(j.lock))
}
