package meter

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func anyAmount() *rapid.Generator[Credits] {
	return rapid.OneOf(anyCredits(), rapid.SampledFrom([]Credits{0, 1, MaxCredits, -MaxCredits}))
}

func anyTime() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64Range(0, Never), rapid.SampledFrom([]int64{0, Never}))
}

func anyName() *rapid.Generator[string] { return rapid.StringMatching(`[A-Za-z0-9._-]{0,64}`) }

func anyNote() *rapid.Generator[Note] {
	text := rapid.StringN(-1, -1, noteTextMax).Filter(func(s string) bool { return !strings.Contains(s, "\x00") })
	return rapid.Custom(func(t *rapid.T) Note {
		n := Note{
			Operation: text.Draw(t, "operation"), PolicyVersion: text.Draw(t, "policy"), KeyID: text.Draw(t, "key"),
			Reason: text.Draw(t, "reason"), Actor: text.Draw(t, "actor"),
		}
		if rapid.Bool().Draw(t, "keyed") {
			n.Key = &IdempotencyKey{Hash: anyID().Draw(t, "hash"), Fingerprint: anyID().Draw(t, "fingerprint")}
		}
		return n
	})
}

func anyAccount() *rapid.Generator[Account] {
	grant := rapid.Custom(func(t *rapid.T) Grant {
		return Grant{
			ID: anyID().Draw(t, "id"), Bucket: anyName().Draw(t, "bucket"), Rank: rapid.Byte().Draw(t, "rank"),
			Paid: rapid.Bool().Draw(t, "paid"), Unlimited: rapid.Bool().Draw(t, "unlimited"),
			Stops: rapid.Bool().Draw(t, "stops"), Available: anyAmount().Draw(t, "available"),
			Held: anyAmount().Draw(t, "held"), Debt: anyAmount().Draw(t, "debt"),
			EffectiveMs: anyTime().Draw(t, "from"), ExpiresMs: anyTime().Draw(t, "to"), CreatedMs: anyTime().Draw(t, "at"),
		}
	})
	applied := rapid.Custom(func(t *rapid.T) AppliedChange {
		return AppliedChange{ID: anyID().Draw(t, "change"), Pseq: rapid.Uint64().Draw(t, "pseq")}
	})
	return rapid.Custom(func(t *rapid.T) Account {
		a := Account{
			Seq: rapid.Uint64().Draw(t, "seq"), Suspended: rapid.Bool().Draw(t, "suspended"),
			FlagsVersion: rapid.Uint32().Draw(t, "flags"), Holds: rapid.Uint32().Draw(t, "holds"),
			PrunedPseq: rapid.Uint64().Draw(t, "pruned"),
		}
		if n := rapid.IntRange(0, 5).Draw(t, "applied"); n > 0 {
			a.Applied = rapid.SliceOfN(applied, n, n).Draw(t, "changes")
		}
		if n := rapid.SampledFrom([]int{0, 1, 3, GrantsMax}).Draw(t, "grants"); n > 0 {
			a.Grants = rapid.SliceOfN(grant, n, n).Draw(t, "lots")
		}
		return a
	})
}

func anyReservation() *rapid.Generator[Reservation] {
	return rapid.Custom(func(t *rapid.T) Reservation {
		r := Reservation{
			State:   State(rapid.Uint8Range(uint8(Held), uint8(Uncollected)).Draw(t, "state")),
			Account: anyName().Draw(t, "account"), Amount: anyAmount().Draw(t, "amount"),
			Charged: anyAmount().Draw(t, "charged"), Unlimited: rapid.Bool().Draw(t, "unlimited"),
			Available:  Credits(rapid.Int64Range(0, int64(MaxCredits)).Draw(t, "available")),
			DeadlineMs: anyTime().Draw(t, "deadline"), SettledMs: anyTime().Draw(t, "settled"),
			Note: anyNote().Draw(t, "note"),
		}
		for range rapid.SampledFrom([]int{0, 1, 2, drawsMax}).Draw(t, "draws") {
			r.Draws = append(r.Draws, Draw{
				Grant: anyID().Draw(t, "grant"), Amount: anyAmount().Draw(t, "drawn"), Charged: anyAmount().Draw(t, "kept"),
			})
		}
		return r
	})
}

func anyRecord() *rapid.Generator[Record] {
	line := rapid.Custom(func(t *rapid.T) Line {
		a := anyAmount()
		return Line{
			Grant: anyID().Draw(t, "grant"), Granted: a.Draw(t, "granted"), Spent: a.Draw(t, "spent"),
			Returned: a.Draw(t, "returned"), Lapsed: a.Draw(t, "lapsed"), Revoked: a.Draw(t, "revoked"), Debt: a.Draw(t, "debt"),
		}
	})
	return rapid.Custom(func(t *rapid.T) Record {
		rec := Record{OccurredMs: anyTime().Draw(t, "occurred")}
		for range rapid.IntRange(1, 3).Draw(t, "entries") {
			e := Entry{
				Kind: Kind(rapid.Uint8Range(uint8(KindGrant), uint8(KindHold)).Draw(t, "kind")),
				Seq:  rapid.Uint64().Draw(t, "seq"), Amount: anyAmount().Draw(t, "amount"),
				Account: anyName().Draw(t, "account"), ID: anyID().Draw(t, "id"), Units: rapid.Uint32().Draw(t, "units"),
				Note: anyNote().Draw(t, "note"),
			}
			if n := rapid.IntRange(0, 3).Draw(t, "lines"); n > 0 {
				e.Lines = rapid.SliceOfN(line, n, n).Draw(t, "line")
			}
			rec.Entries = append(rec.Entries, e)
		}
		return rec
	})
}

// unpackNote reads a note the way reservations and entries hold it.
func unpackNote(b []byte) (Note, error) {
	r := reader{b: append([]byte{byte(len(b)), byte(len(b) >> 8)}, b...)}
	n := r.note(Note{})
	return n, r.end("note")
}

func TestPackedValuesRoundTrip(t *testing.T) {
	t.Parallel()
	t.Run("account", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) { roundTrip(t, anyAccount(), AppendAccount, UnpackAccount) })
	})
	t.Run("reservation", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) { roundTrip(t, anyReservation(), AppendReservation, UnpackReservation) })
	})
	t.Run("note", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) { roundTrip(t, anyNote(), AppendNote, unpackNote) })
	})
	t.Run("record", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			roundTrip(t, anyRecord(), AppendRecord, func(b []byte) (Record, error) {
				rec, err := UnpackRecord(b)
				if err == nil {
					require.Equal(t, b, rec.Body, "the body is kept for the hash chain")
				}
				rec.Body = nil
				return rec, err
			})
		})
	})
}

// roundTrip checks that a value survives packing, that its packed form is the only one, and that damage shows: a
// value cut short is refused, and one with a bit turned is refused or reads as another value.
func roundTrip[T any](t *rapid.T, values *rapid.Generator[T], pack func([]byte, T) []byte, unpack func([]byte) (T, error)) {
	v := values.Draw(t, "value")
	b := pack([]byte("prefix"), v)[len("prefix"):]
	got, err := unpack(b)
	require.NoError(t, err)
	require.Equal(t, v, got)
	require.Equal(t, b, pack(nil, got))
	if len(b) == 0 { // the empty note
		return
	}
	short := b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]
	if damaged, err := unpack(short); err == nil { // only a note: its length is outside of it
		require.NotEqual(t, v, damaged, "cut to %d of %d bytes", len(short), len(b))
	}
	_, err = unpack(append(slices.Clip(b), 0))
	require.ErrorIs(t, err, ErrPacked, "a byte too long")
	flipped := append([]byte(nil), b...)
	bit := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
	flipped[bit/8] ^= 1 << (bit % 8)
	if damaged, err := unpack(flipped); err == nil {
		require.NotEqual(t, v, damaged, "bit %d", bit)
		require.Equal(t, flipped, pack(nil, damaged))
	}
}

// Postgres refuses text that is not UTF-8 or has a NUL in it, and a ledger record that it refuses would stop its
// partition for ever. So a note is made clean where it is packed, whatever a header brought.
func TestNoteIsAlwaysTextForPostgres(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                              "plain",
		"\xff\xfe":                           "\uFFFD",
		"a\x00b":                             "a\uFFFDb",
		strings.Repeat("x", noteTextMax+1):   strings.Repeat("x", noteTextMax),
		strings.Repeat("x", 119) + "é":       strings.Repeat("x", 119),
		strings.Repeat("x", 118) + "é":       strings.Repeat("x", 118) + "é",
		strings.Repeat("x", 117) + "\xff😀":   strings.Repeat("x", 117) + "\uFFFD",
		strings.Repeat("\x00", noteTextMax):  strings.Repeat("\uFFFD", noteTextMax/3),
		strings.Repeat("é", noteTextMax/2+1): strings.Repeat("é", noteTextMax/2),
	} {
		n, err := unpackNote(AppendNote(nil, Note{Operation: "op", Actor: in}))
		require.NoError(t, err, "%q", in)
		require.Equal(t, want, n.Actor, "%q", in)
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "reason"))
		packed := AppendNote(nil, Note{Operation: "op", Reason: in, Key: &IdempotencyKey{}})
		require.LessOrEqual(t, len(packed), noteMax)
		n, err := unpackNote(packed)
		require.NoError(t, err)
		require.True(t, utf8.ValidString(n.Reason))
		require.NotContains(t, n.Reason, "\x00")
	})
}

// A count that no script writes is refused before anything is allocated for it.
func TestPackedBounds(t *testing.T) {
	t.Parallel()
	grants := AppendAccount(nil, Account{Grants: make([]Grant, GrantsMax+1)})
	applied := AppendAccount(nil, Account{Applied: make([]AppliedChange, appliedMax+1)})
	draws := AppendReservation(nil, Reservation{State: Held, Draws: make([]Draw, drawsMax+1)})
	lines := AppendRecord(nil, Record{Entries: []Entry{{Kind: KindCommit, Lines: make([]Line, drawsMax+1)}}})
	entries := AppendRecord(nil, Record{Entries: make([]Entry, recordEntryMax+1)})
	for what, err := range map[string]error{
		"grants":      second(UnpackAccount(grants)),
		"applied":     second(UnpackAccount(applied)),
		"draws":       second(UnpackReservation(draws)),
		"lines":       second(UnpackRecord(lines)),
		"entries":     second(UnpackRecord(entries)),
		"no entries":  second(UnpackRecord(AppendRecord(nil, Record{}))),
		"state 0":     second(UnpackReservation(AppendReservation(nil, Reservation{}))),
		"state 7":     second(UnpackReservation(AppendReservation(nil, Reservation{State: Uncollected + 1}))),
		"kind 0":      second(UnpackRecord(AppendRecord(nil, Record{Entries: []Entry{{}}}))),
		"kind 11":     second(UnpackRecord(AppendRecord(nil, Record{Entries: []Entry{{Kind: KindHold + 1}}}))),
		"amount":      second(UnpackReservation(AppendReservation(nil, Reservation{State: Held, Amount: MaxCredits + 1}))),
		"before 1970": second(UnpackReservation(AppendReservation(nil, Reservation{State: Held, DeadlineMs: -1}))),
		"after never": second(UnpackReservation(AppendReservation(nil, Reservation{State: Held, DeadlineMs: Never + 1}))),
	} {
		require.ErrorIs(t, err, ErrPacked, what)
	}
}

func second[T any](_ T, err error) error { return err }

// The decoders read what Redis holds, which another version, a restored backup or a person may have written: any
// bytes are refused or read as a value that packs to the same bytes.
func FuzzUnpack(f *testing.F) {
	note := Note{Operation: "apply", Key: &IdempotencyKey{Hash: ID{1}}}
	f.Add(AppendAccount(nil, Account{Seq: 3, Grants: []Grant{{ID: ID{1}, Bucket: "promo", Available: 5}}}))
	f.Add(AppendReservation(nil, Reservation{State: Held, Account: "a", Note: note, Draws: []Draw{{Amount: 5}}}))
	f.Add(AppendRecord(nil, Record{Entries: []Entry{{Kind: KindCommit, Account: "a", Note: note, Lines: []Line{{Spent: 1}}}}}))
	f.Add(AppendNote(nil, note))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := UnpackAccount(b); err == nil {
			require.Equal(t, b, AppendAccount(nil, a))
		}
		if r, err := UnpackReservation(b); err == nil {
			require.Equal(t, b, AppendReservation(nil, r))
		}
		if rec, err := UnpackRecord(b); err == nil {
			require.Equal(t, b, AppendRecord(nil, rec))
		}
		if len(b) < 1<<16 {
			if n, err := unpackNote(b); err == nil {
				require.Equal(t, string(b), string(AppendNote(nil, n)))
			}
		}
	})
}
