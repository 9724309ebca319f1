package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// The story that is interrupted everywhere: eight settlements, of which five are marked, over several segments.
// report is told what a gateway would know: that an Append or an Ack returned.
func story(j *Journal, settle func(n int) meter.Settle, report func(verb string, n int)) {
	seqs := map[int]uint64{}
	for n := 1; n <= 8; n++ {
		seq, err := j.Append(Commit, settle(n), epoch)
		if err != nil {
			return
		}
		seqs[n] = seq
		report("append", n)
		if n%2 == 0 || n == 7 {
			if j.Ack(seqs[n/2+n%2]) != nil {
				return
			}
			report("ack", n/2+n%2)
		}
	}
	_ = j.Close()
	report("close", 0)
}

var storyOptions = Options{SegmentBytes: segmentBytesMin, BytesMax: 64 << 10}

// Environment of the re-executed test binary: where, and after how many disk operations to die.
const (
	crashDirEnv  = "JOURNAL_CRASH_DIR"
	crashStepEnv = "JOURNAL_CRASH_STEP"
)

func crashChild(dir string) {
	step, err := strconv.Atoi(os.Getenv(crashStepEnv))
	if err != nil {
		panic(err)
	}
	k := &killDisk{left: step}
	j, err := openOn(k, dir, storyOptions)
	if err != nil {
		panic(err)
	}
	story(j, settleOf, func(verb string, n int) { fmt.Fprintln(os.Stdout, verb, n) })
}

// killDisk kills its own process before an operation, or in the middle of a write.
type killDisk struct {
	osDisk
	left int
}

type killFile struct {
	file
	k *killDisk
}

func (k *killDisk) step() bool {
	k.left--
	return k.left < 0
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

func (k *killDisk) before() {
	if k.step() {
		die()
	}
}

func (k *killDisk) create(path string) (file, error) {
	k.before()
	f, err := k.osDisk.create(path)
	return killFile{file: f, k: k}, err
}

func (k *killDisk) remove(path string) error  { k.before(); return k.osDisk.remove(path) }
func (k *killDisk) syncDir(path string) error { k.before(); return k.osDisk.syncDir(path) }

func (f killFile) WriteAt(b []byte, off int64) (int, error) {
	if f.k.step() {
		_, _ = f.file.WriteAt(b[:len(b)/2], off)
		die()
	}
	return f.file.WriteAt(b, off)
}

func (f killFile) Sync() error { f.k.before(); return f.file.Sync() }

// The test binary runs the story and is killed before each of its disk operations, or in the middle of a write;
// whatever an Append returned for is there afterwards.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	for step, finished := 0, false; !finished; step++ {
		dir := t.TempDir()
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashStepEnv+"="+strconv.Itoa(step))
		out, err := cmd.Output()
		if finished = err == nil; !finished {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), string(exit.Stderr))
		}
		var known knowledge
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			verb, n, _ := strings.Cut(lines.Text(), " ")
			number, err := strconv.Atoi(n)
			require.NoError(t, err)
			known.report(verb, number)
		}
		require.Equal(t, finished, known.closed)
		require.True(t, !finished || step > 25, "the story has more steps than that")
		j, err := Open(dir, storyOptions)
		require.NoError(t, err, "step %d", step)
		known.check(t, j, fmt.Sprintf("step %d", step))
		require.NoError(t, j.Close())
	}
}

// knowledge is what callers were told before the crash.
type knowledge struct {
	appended, acked []int
	closed          bool
}

func (k *knowledge) report(verb string, n int) {
	switch verb {
	case "append":
		k.appended = append(k.appended, n)
	case "ack":
		k.acked = append(k.acked, n)
	case "close":
		k.closed = true
	}
}

// check compares what came back with what callers knew. An Append that did not return may have happened, but only
// the next one; a mark may be lost, for it is not synced.
func (k *knowledge) check(t *testing.T, j *Journal, when string) {
	t.Helper()
	var found []int
	for _, e := range j.Pending() {
		n := int(e.Settle.Units)
		want := settleOf(n)
		want.ID = e.Settle.ID // made anew in each process
		require.Equal(t, entryOf(e.Seq, want), e, when)
		found = append(found, n)
	}
	require.True(t, slices.IsSorted(found), when)
	for _, n := range k.appended {
		if !slices.Contains(k.acked, n) && n != k.beingAcked() {
			require.Contains(t, found, n, "%s: lost", when)
		}
	}
	for _, n := range found {
		require.LessOrEqual(t, n, len(k.appended)+1, "%s: from nowhere", when)
	}
	if k.closed {
		require.Equal(t, []int{5, 6, 7, 8}, append(found, k.acked[4:]...)[:4], when)
	}
}

// beingAcked is the entry that the story marks next: its mark may be on disk though Ack did not return.
func (k *knowledge) beingAcked() int { return len(k.acked) + 1 }

// powerDisk keeps what a power cut would leave: the bytes of each file at its last sync, and which names were
// made durable. From operation left on nothing works any more.
type powerDisk struct {
	left    int
	durable map[string][]byte // by path, at the last sync
	named   map[string]bool   // the directory was synced since the file was made
	removed map[string][]byte // removed since the directory was synced: may come back
}

var errPower = errors.New("no power")

func newPowerDisk(steps int) *powerDisk {
	return &powerDisk{left: steps, durable: map[string][]byte{}, named: map[string]bool{}, removed: map[string][]byte{}}
}

type powerFile struct {
	*os.File
	d *powerDisk
}

func (d *powerDisk) off() bool {
	d.left--
	return d.left < 0
}

func (d *powerDisk) create(path string) (file, error) {
	if d.off() {
		return nil, errPower
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	d.durable[path] = nil
	return powerFile{File: f, d: d}, err
}

func (d *powerDisk) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	return powerFile{File: f, d: d}, err
}

func (d *powerDisk) remove(path string) error {
	if d.off() {
		return errPower
	}
	d.removed[path] = d.durable[path]
	delete(d.durable, path)
	delete(d.named, path)
	return os.Remove(path)
}

func (d *powerDisk) syncDir(string) error {
	if d.off() {
		return errPower
	}
	clear(d.removed)
	for path := range d.durable {
		d.named[path] = true
	}
	return nil
}

func (f powerFile) WriteAt(b []byte, off int64) (int, error) {
	if f.d.off() {
		n, _ := f.File.WriteAt(b[:len(b)/2], off)
		return n, errPower
	}
	return f.File.WriteAt(b, off)
}

func (f powerFile) Sync() error {
	if f.d.off() {
		return errPower
	}
	data, err := os.ReadFile(f.Name())
	f.d.durable[f.Name()] = data
	return err
}

func (f powerFile) Truncate(n int64) error {
	if f.d.off() {
		return errPower
	}
	return f.File.Truncate(n)
}

// cut writes into dir what the disk might hold after the power went: of what was not synced any mix of sectors.
func (d *powerDisk) cut(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	const sector = 64 // smaller than real ones, for more mixes
	for path, durable := range d.durable {
		if !d.named[path] && rng.IntN(2) == 0 {
			continue
		}
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		size := len(durable)
		if len(now) > size {
			size += rng.IntN(len(now) - size + 1)
		}
		left := make([]byte, size)
		copy(left, durable)
		for at := len(durable); at < size; {
			end := min(size, at-at%sector+sector)
			if rng.IntN(2) == 0 {
				copy(left[at:end], now[at:end])
			}
			at = end
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), left, 0o600))
	}
	for path, data := range d.removed {
		if rng.IntN(2) == 0 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600))
		}
	}
}

// The power goes before each disk operation, and unsynced sectors are kept or lost by chance: the directory opens
// again, and everything an Append returned for is in it.
func TestPowerCutAtEveryStep(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		d := newPowerDisk(step)
		var known knowledge
		j, err := openOn(d, t.TempDir(), storyOptions)
		if err == nil {
			story(j, settleOf, known.report)
			_ = j.Close()
		}
		for seed := range uint64(8) {
			dir := t.TempDir()
			d.cut(t, dir, rand.New(rand.NewPCG(uint64(step), seed)))
			after, err := Open(dir, storyOptions)
			when := fmt.Sprintf("step %d seed %d", step, seed)
			require.NoError(t, err, when)
			known.checkAfterPower(t, after, when)
			require.NoError(t, after.Close())
		}
		if known.closed {
			return
		}
	}
}

// checkAfterPower is check without an order: removed segments may come back, and marks may be lost.
func (k *knowledge) checkAfterPower(t *testing.T, j *Journal, when string) {
	t.Helper()
	var found []int
	for _, e := range j.Pending() {
		found = append(found, int(e.Settle.Units))
	}
	for _, n := range k.appended {
		if !slices.Contains(k.acked, n) && n != k.beingAcked() {
			require.Contains(t, found, n, "%s: lost", when)
		}
	}
	for _, n := range found {
		require.LessOrEqual(t, n, len(k.appended)+1, "%s: from nowhere", when)
	}
}
