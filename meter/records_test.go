package meter

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// ledgerReply is what Redis answers to XRANGE when the ledger has these records, of epoch 7.
func ledgerReply(records ...Record) string {
	out := fmt.Appendf(nil, "*%d\r\n", len(records))
	for i, rec := range records {
		body := AppendRecord(nil, rec)
		id := Position{7, uint64(i + 1)}.String()
		out = fmt.Appendf(out, "*2\r\n$%d\r\n%s\r\n*2\r\n$1\r\ne\r\n$%d\r\n%s\r\n", len(id), id, len(body), body)
	}
	return string(out)
}

func twoRecords(account string) []Record {
	entry := func(seq uint64) Entry {
		return Entry{
			Kind: KindCommit, Seq: seq, Amount: Credit, Account: account, ID: ID{1}, Units: 1,
			Note: Note{Operation: "apply", KeyID: "key-of-" + account}, Lines: []Line{{Grant: ID{2}, Spent: Credit}},
		}
	}
	return []Record{{OccurredMs: 5, Entries: []Entry{entry(1), entry(2)}}, {OccurredMs: 6, Entries: []Entry{entry(3)}}}
}

func readReply(r *Records, reply string) error {
	r.begin().WriteString(reply)
	return r.unpack(1, 2)
}

func TestRecordsAreReadFromTheReply(t *testing.T) {
	t.Parallel()
	want := twoRecords("acme")
	spare := newRecords()
	for range 3 { // in the same memory
		r, _ := spare.Get().(*Records)
		require.NoError(t, readReply(r, ledgerReply(want...)))
		require.Len(t, r.List, len(want))
		for i, rec := range r.List {
			require.Equal(t, want[i].Entries, rec.Entries)
			require.Equal(t, AppendRecord(nil, want[i]), rec.Body)
			require.Equal(t, Record{
				Layout: 1, Partition: 2, Position: Position{7, uint64(i + 1)}, OccurredMs: want[i].OccurredMs,
				Entries: rec.Entries, Body: rec.Body,
			}, rec)
		}
		require.NoError(t, readReply(r, "*0\r\n"))
		require.Empty(t, r.List)
		r.Release()
	}
}

// Whoever still looks at released records must find nothing rather than what another read brought: a flusher that let
// go of them too early would write that into the books. Texts stay what they are.
func TestReleasedRecordsAreWiped(t *testing.T) {
	t.Parallel()
	r := &Records{spare: new(sync.Pool)}
	for range 2 { // what the first one outgrows is not used again
		require.NoError(t, readReply(r, ledgerReply(twoRecords("acme")...)))
	}
	rec, entry, line := r.List[1], &r.List[0].Entries[1], &r.List[0].Entries[1].Lines[0]
	list, account, key := r.List, entry.Account, entry.Note.KeyID
	r.Release()
	require.Equal(t, Record{}, list[0])
	require.Equal(t, make([]byte, len(rec.Body)), rec.Body)
	require.Zero(t, *entry)
	require.Zero(t, *line)

	require.NoError(t, readReply(r, ledgerReply(twoRecords("bolt")...)))
	require.Equal(t, "acme", account)
	require.Equal(t, "key-of-acme", key)
}

// A reply that is cut or has something else in it is damage; so is one of which there is more than one. Redis' refusal
// is none.
func TestDamagedLedgerReplyIsNoticed(t *testing.T) {
	t.Parallel()
	whole := ledgerReply(twoRecords("acme")...)
	for n := range len(whole) {
		require.ErrorIs(t, readReply(new(Records), whole[:n]), ErrPacked, "the first %d bytes", n)
	}
	for what, reply := range map[string]string{
		"twice":          whole + whole,
		"another field":  strings.Replace(whole, "\r\ne\r\n", "\r\nf\r\n", 1),
		"another length": strings.Replace(whole, "$3", "$4", 1),
		"another id":     strings.Replace(whole, "7-1", "7.1", 1),
		"fewer records":  strings.Replace(whole, "*2", "*1", 1),
		"more records":   strings.Replace(whole, "*2", "*3", 1),
		"many records":   strings.Replace(whole, "*2", "*9999999999", 1),
		"no list":        strings.Replace(whole, "*2", "*-1", 1),
	} {
		require.ErrorIs(t, readReply(new(Records), reply), ErrPacked, what)
	}
	err := readReply(new(Records), "-WRONGTYPE it is a list\r\n")
	require.ErrorIs(t, err, errRefused)
	require.ErrorContains(t, err, "WRONGTYPE it is a list")
}
