package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// batch is what one write and one sync make durable for everyone in it.
type batch struct {
	entries []Entry
	bodies  [][]byte // the entries' bytes
	marks   []mark
	done    chan struct{} // closed when err is set
	err     error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// join puts an entry into the open batch, if there is room for it and for its mark.
func (j *Journal) join(e Entry, body []byte) (*batch, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, 0, ErrClosed
	}
	need := int64(frameHead + payloadHead + len(body))
	entries := len(j.pending) + j.unsynced + 1
	if entries > j.opts.EntriesMax || j.bytes+j.queued+need+int64(entries)*markSize > j.opts.BytesMax {
		return nil, 0, fmt.Errorf("%w: %d settlements of at most %d, %d bytes of at most %d wait for Redis in %s",
			ErrFull, entries-1, j.opts.EntriesMax, j.bytes+j.queued, j.opts.BytesMax, j.dir)
	}
	e.Seq = j.nextSeq
	j.nextSeq++
	binary.LittleEndian.PutUint64(body, e.Seq) // an entry begins with its number, known only now
	j.unsynced++
	j.queued += need
	b := j.open
	b.entries = append(b.entries, e)
	b.bodies = append(b.bodies, body)
	return b, e.Seq, nil
}

// fly returns when b is written. The first of b's callers to get the flight writes for all of them; those who
// come meanwhile fill the next batch. So nothing waits for a timer, an idle journal writes at once, and a busy one
// syncs once for as many as came during the last sync.
func (j *Journal) fly(b *batch) error {
	select {
	case <-b.done:
		return b.err
	case j.flight <- struct{}{}:
	}
	defer func() { <-j.flight }()
	select {
	case <-b.done: // both were ready
	default:
		j.flush()
	}
	return b.err
}

// flush writes the open batch. The caller has the flight, so a batch that is not done is the open one.
func (j *Journal) flush() {
	j.mu.Lock()
	b := j.open
	j.open = newBatch()
	j.mu.Unlock()

	before := j.active
	if err := j.write(b); err != nil {
		b.err = fmt.Errorf("%w: %w", ErrWrite, err)
	}
	at := j.active
	j.flown += uint64(len(b.entries)) // also if they failed: a segment begins where it says, gaps lie between

	j.mu.Lock()
	j.unsynced -= len(b.entries)
	for i := range b.entries {
		j.queued -= int64(frameHead + payloadHead + len(b.bodies[i]))
		if b.err == nil {
			j.pending[b.entries[i].Seq] = held{Entry: b.entries[i], in: at}
			at.pending++
		}
	}
	if b.err == nil && at != nil {
		at.marks = append(at.marks, b.marks...)
	}
	j.mu.Unlock()
	close(b.done)

	if b.err != nil {
		j.log.Debug().Err(b.err).Int("settlements", len(b.entries)).Msg("journal: could not write")
	} else if len(b.entries) > 0 {
		j.opts.Outage.OK()
	}
	if len(b.marks) > 0 || at != before {
		j.deleteFinished()
	}
}

// write puts a batch on disk. What fails is taken back, and the next batch begins a new segment.
func (j *Journal) write(b *batch) error {
	if len(b.entries)+len(b.marks) == 0 {
		return nil
	}
	if j.broken != nil {
		return j.broken
	}
	if err := j.rotate(); err != nil {
		return err
	}
	before := j.active.size
	err := j.active.write(j.encode(b), len(b.entries) > 0)
	if err != nil {
		j.giveUp(before)
		return err
	}
	j.addBytes(j.active.size - before)
	return nil
}

// giveUp ends the active segment, which was before bytes long, after a failed write. If even that fails the
// file's end is unknown, and the journal takes nothing more until it is opened again.
func (j *Journal) giveUp(before int64) {
	s := j.active
	j.active = nil
	if err := s.giveUp(); err != nil {
		_ = s.f.Close()
		s.f = nil
		j.broken = fmt.Errorf("journal: takes nothing more until the process is restarted: %w", err)
	}
	j.addBytes(s.size - before)
}

func (j *Journal) encode(b *batch) []byte {
	s, buf := j.active, j.buf[:0]
	for _, body := range b.bodies {
		buf = appendFrame(buf, s.number, s.size, s.durable, kindEntry, func(b []byte) []byte { return append(b, body...) })
	}
	for _, m := range b.marks {
		buf = appendFrame(buf, s.number, s.size, s.durable, kindMark, func(b []byte) []byte {
			return binary.LittleEndian.AppendUint64(b, m.seq)
		})
	}
	j.buf = buf
	return buf
}

// rotate begins a segment if the active one is full or gone.
func (j *Journal) rotate() error {
	s := j.active
	switch {
	case s == nil:
		return j.begin()
	case s.size < j.opts.SegmentBytes:
		return nil
	}
	before := s.size
	if err := s.seal(); err != nil {
		j.giveUp(before)
		return err
	}
	j.active = nil
	j.addBytes(s.size - before)
	return j.begin()
}

// begin makes a new active segment. Its number is used again if that fails, so that no gap and no ruin stays.
func (j *Journal) begin() error {
	s := newSegment(j.dir, j.nextNumber)
	if err := s.begin(j.disk, j.flown); err != nil {
		if leftover := (*leftoverError)(nil); errors.As(err, &leftover) {
			j.broken = fmt.Errorf("journal: takes nothing more until the process is restarted: %w", err)
		}
		return err
	}
	j.nextNumber++
	j.active = s
	j.mu.Lock()
	j.segments = append(j.segments, s)
	j.bytes += s.size
	j.mu.Unlock()
	return nil
}

func (j *Journal) addBytes(n int64) {
	j.mu.Lock()
	j.bytes += n
	j.mu.Unlock()
}

// deleteFinished removes the segments whose entries are all settled. A name that comes back after a power cut is
// read again, and its entries are repeated, which changes nothing.
func (j *Journal) deleteFinished() {
	for _, s := range j.finished() {
		if err := j.disk.remove(s.path); err != nil { // the next Open tries again
			j.log.Error().Err(err).Msg("journal: could not delete a finished segment")
			continue
		}
		j.addBytes(-s.size)
	}
}

// finished takes the finished segments off the list. Marks in them for entries of other segments, which stay
// because of a neighbour that is not settled, go into the next batch, or those entries would be repeated after a
// restart; they need no more room than the segment gave back.
func (j *Journal) finished() []*segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	var kept, done []*segment
	for _, s := range j.segments {
		if s.deleted = s != j.active && s.pending == 0; s.deleted {
			done = append(done, s)
		} else {
			kept = append(kept, s)
		}
	}
	j.segments = kept
	for _, s := range done {
		for _, m := range s.marks {
			if !m.of.deleted {
				j.open.marks = append(j.open.marks, m)
			}
		}
	}
	return done
}
