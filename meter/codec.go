package meter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Packed values are little-endian and start with a format byte, so that a newer binary can tell old from new.
// lua/lib/*.lua reads and writes the same bytes with struct.pack; TestCodec holds both together.
const (
	accountFormat     = 2
	reservationFormat = 1
	recordFormat      = 1
	noteFormat        = 1
)

// Bounds of packed values; the scripts rely on them.
const (
	drawsMax       = GrantsMax
	recordEntryMax = 4096
	appliedMax     = 64 // admin changes of one account not yet flushed
	noteTextMax    = 120
	noteMax        = 1 + 5*(1+noteTextMax) + 2*16 // format, five texts, Idempotency-Key
)

// Flags of a packed account and of a packed grant; lua/lib/account.lua has the same.
const (
	accountSuspended = 1
	accountFair      = 2 // a grant is unlimited or stops others

	grantPaid      = 1
	grantUnlimited = 2
	grantStops     = 4
)

// ErrPacked says that a packed value is damaged or of a format this binary does not know.
var ErrPacked = errors.New("packed value is damaged or of an unknown format")

// AppendAccount packs a.
func AppendAccount(b []byte, a Account) []byte {
	var flags byte
	if a.Suspended {
		flags |= accountSuspended
	}
	if a.fair() {
		flags |= accountFair
	}
	b = append(b, accountFormat)
	b = binary.LittleEndian.AppendUint64(b, a.Seq)
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint32(b, a.FlagsVersion)
	b = binary.LittleEndian.AppendUint32(b, a.Holds)
	b = binary.LittleEndian.AppendUint64(b, a.PrunedPseq)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.Sum.Available))
	b = appendInt48(appendInt48(b, a.Sum.FromMs), a.Sum.UntilMs)
	b = append(b, byte(len(a.Applied)), byte(len(a.Grants)))
	for _, c := range a.Applied {
		b = append(b, c.ID[:]...)
		b = binary.LittleEndian.AppendUint64(b, c.Pseq)
	}
	for _, g := range a.Grants {
		b = appendGrant(b, g)
	}
	return b
}

func appendGrant(b []byte, g Grant) []byte {
	b = append(b, g.ID[:]...)
	for _, c := range [...]Credits{g.Available, g.Held, g.Debt} {
		b = binary.LittleEndian.AppendUint64(b, uint64(c))
	}
	for _, ms := range [...]int64{g.EffectiveMs, g.ExpiresMs, g.CreatedMs} {
		b = appendInt48(b, ms)
	}
	b = append(b, g.Rank, g.flags(), byte(len(g.Bucket)))
	return append(b, g.Bucket...)
}

// UnpackAccount reads AppendAccount's form.
func UnpackAccount(b []byte) (Account, error) {
	r := reader{b: b}
	r.format(accountFormat)
	a := Account{Seq: r.u64()}
	flags := r.flags(accountSuspended | accountFair)
	a.Suspended = flags&accountSuspended != 0
	a.FlagsVersion, a.Holds, a.PrunedPseq = r.u32(), r.u32(), r.u64()
	a.Sum = AvailableSum{Available: r.credits(), FromMs: r.i48(), UntilMs: r.i48()}
	applied, grants := r.u8(), r.u8()
	if applied > appliedMax || grants > GrantsMax {
		return Account{}, fmt.Errorf("account: %w: %d grants", ErrPacked, grants)
	}
	for range applied {
		a.Applied = append(a.Applied, AppliedChange{ID: r.id(), Pseq: r.u64()})
	}
	for range grants {
		a.Grants = append(a.Grants, r.grant())
	}
	r.bad = r.bad || a.fair() != (flags&accountFair != 0) // the scripts rely on it
	return a, r.end("account")
}

// flags are the grant's in one byte.
func (g Grant) flags() (b byte) {
	if g.Paid {
		b |= grantPaid
	}
	if g.Unlimited {
		b |= grantUnlimited
	}
	if g.Stops {
		b |= grantStops
	}
	return b
}

// fair reports whether a fair-use cap is among the grants, live or not.
func (a Account) fair() bool {
	return slices.ContainsFunc(a.Grants, func(g Grant) bool { return g.Unlimited || g.Stops })
}

func (r *reader) grant() (g Grant) {
	g.ID = r.id()
	g.Available, g.Held, g.Debt = r.credits(), r.credits(), r.credits()
	g.EffectiveMs, g.ExpiresMs, g.CreatedMs = r.i48(), r.i48(), r.i48()
	g.Rank = r.u8()
	flags := r.flags(grantPaid | grantUnlimited | grantStops)
	g.Paid, g.Unlimited, g.Stops = flags&grantPaid != 0, flags&grantUnlimited != 0, flags&grantStops != 0
	g.Bucket = r.str(int(r.u8()))
	return g
}

// AppendReservation packs r without its id, which is the field it is stored under.
func AppendReservation(b []byte, r Reservation) []byte {
	b = append(b, reservationFormat, byte(r.State))
	available := r.Available
	if r.Unlimited {
		available = -1 - available
	}
	for _, c := range [...]Credits{r.Amount, r.Charged, available} {
		b = binary.LittleEndian.AppendUint64(b, uint64(c))
	}
	b = appendInt48(b, r.DeadlineMs)
	b = appendInt48(b, r.SettledMs)
	b = append(b, byte(len(r.Account)))
	b = append(b, r.Account...)
	note := AppendNote(nil, r.Note)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(note)))
	b = append(b, note...)
	b = append(b, byte(len(r.Draws)))
	for _, d := range r.Draws {
		b = append(b, d.Grant[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Amount))
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Charged))
	}
	return b
}

// UnpackReservation reads AppendReservation's form; the caller sets the id.
func UnpackReservation(b []byte) (Reservation, error) { return unpackReservation(b, "", Note{}) }

// unpackReservation is UnpackReservation for one whose texts are probably those given: they are not made again then.
func unpackReservation(b []byte, account string, note Note) (Reservation, error) {
	r := reader{b: b}
	v := r.brief()
	v.SettledMs = r.i48()
	v.Account = r.strLike(int(r.u8()), account)
	v.Note = r.note(note)
	n := int(r.u8())
	if n > drawsMax || v.State < Held || v.State > Uncollected {
		return Reservation{}, fmt.Errorf("reservation: %w: %s, %d draws", ErrPacked, v.State, n)
	}
	if n > 0 {
		v.Draws = make([]Draw, n)
	}
	for i := range v.Draws {
		v.Draws[i] = Draw{Grant: r.id(), Amount: r.credits(), Charged: r.credits()}
	}
	return v, r.end("reservation")
}

// briefSize is the part of a packed reservation that a brief answer has: what a caller decides by.
const briefSize = 1 + 1 + 3*8 + 6

func unpackBrief(b []byte) (Reservation, error) {
	r := reader{b: b}
	v := r.brief()
	if v.State < Held || v.State > Uncollected {
		return Reservation{}, fmt.Errorf("reservation: %w: %s", ErrPacked, v.State)
	}
	return v, r.end("brief reservation")
}

func (r *reader) brief() Reservation {
	r.format(reservationFormat)
	v := Reservation{
		State: State(r.u8()), Amount: r.credits(), Charged: r.credits(),
	}
	v.Available, v.Unlimited = r.shown()
	v.DeadlineMs = r.i48()
	return v
}

// shown reads what is available, which is below 0, as -1 - available, where a fair-use cap is in force.
func (r *reader) shown() (available Credits, unlimited bool) {
	available = Credits(r.u64())
	if unlimited = available < 0; unlimited {
		available = -1 - available
	}
	r.bad = r.bad || !available.Valid()
	return available, unlimited
}

// AppendNote packs n. An empty note packs to nothing.
func AppendNote(b []byte, n Note) []byte {
	if n == (Note{}) {
		return b
	}
	b = append(b, noteFormat)
	for _, s := range [...]string{n.Operation, n.PolicyVersion, n.KeyID, n.Reason, n.Actor} {
		s = noteText(s)
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	if n.Key != nil {
		b = append(b, n.Key.Hash[:]...)
		b = append(b, n.Key.Fingerprint[:]...)
	}
	return b
}

// noteText is s as the ledger can keep it: at most noteTextMax bytes of UTF-8 without NUL. Postgres refuses any other
// text, and a record that it refuses would stop its partition for ever, so this is not left to the callers.
func noteText(s string) string {
	if len(s) <= noteTextMax && utf8.ValidString(s) && !strings.Contains(s, "\x00") {
		return s
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= noteTextMax {
		return s
	}
	end := noteTextMax
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// UnpackNote reads AppendNote's form.
func UnpackNote(b []byte) (Note, error) {
	r := reader{b: b}
	n := r.noteBody(Note{})
	return n, r.end("note")
}

// note reads a note that is probably `like`.
func (r *reader) note(like Note) Note {
	packed := r.take(int(r.u16()))
	body := reader{b: packed, text: r.taken(len(packed))}
	n := body.noteBody(like)
	if body.bad || len(body.b) > 0 || len(packed) > 0 && n == (Note{}) {
		r.bad = true
	}
	return n
}

func (r *reader) noteBody(like Note) (n Note) {
	if len(r.b) == 0 {
		return n
	}
	r.format(noteFormat)
	likes := [...]string{like.Operation, like.PolicyVersion, like.KeyID, like.Reason, like.Actor}
	for i, s := range [...]*string{&n.Operation, &n.PolicyVersion, &n.KeyID, &n.Reason, &n.Actor} {
		*s = r.strLike(int(r.u8()), likes[i])
		r.bad = r.bad || *s != noteText(*s)
	}
	if len(r.b) > 0 {
		n.Key = &IdempotencyKey{Hash: r.id(), Fingerprint: r.id()}
	}
	return n
}

// UnpackRecord reads the body of a ledger record. The caller knows layout, partition and position.
func UnpackRecord(body []byte) (rec Record, err error) {
	_, _, err = unpackRecord(&rec, body, string(body), nil, nil)
	return rec, err
}

// unpackRecord reads a body that is there as a string too, of which the entries' texts become parts. Entries and their lines
// are appended to those given: the flusher reads as many as requests are charged, again and again.
func unpackRecord(
	rec *Record, body []byte, text string, entries []Entry, lines []Line,
) ([]Entry, []Line, error) {
	r := reader{b: body, text: text}
	r.format(recordFormat)
	rec.OccurredMs, rec.Body = r.i48(), body
	n := int(r.u16())
	if n == 0 || n > recordEntryMax {
		return entries, lines, fmt.Errorf("record: %w: %d entries", ErrPacked, n)
	}
	n = min(n, len(r.b)/entrySizeMin+1) // more are not in what follows
	from := len(entries)
	entries = slices.Grow(entries, n)
	lines = slices.Grow(lines, n) // most have one
	like := &Entry{}              // the next one's texts are often the same
	for range n {
		entries = append(entries, Entry{})
		e := &entries[len(entries)-1]
		lines = r.entry(e, like, lines)
		like = e
		if r.bad {
			break
		}
	}
	rec.Entries = entries[from:len(entries):len(entries)]
	return entries, lines, r.end("record")
}

// entrySizeMin is a packed entry without texts and lines.
const entrySizeMin = 1 + 8 + 8 + 1 + 16 + 4 + 2 + 1

// entry reads an entry, whose lines it appends to those before it.
func (r *reader) entry(e, like *Entry, lines []Line) []Line {
	e.Kind, e.Seq, e.Amount = Kind(r.u8()), r.u64(), r.credits()
	e.Account = r.strLike(int(r.u8()), like.Account)
	e.ID, e.Units = r.id(), r.u32()
	e.Note = r.note(like.Note)
	if e.Kind < KindGrant || e.Kind > KindHold {
		r.bad = true
	}
	n := int(r.u8())
	if n > drawsMax {
		r.bad = true
		return lines
	}
	from := len(lines)
	for range n {
		lines = append(lines, Line{
			Grant: r.id(), Granted: r.credits(), Spent: r.credits(), Returned: r.credits(),
			Lapsed: r.credits(), Revoked: r.credits(), Debt: r.credits(),
		})
	}
	if n > 0 {
		e.Lines = lines[from:len(lines):len(lines)]
	}
	return lines
}

// AppendRecord packs a record's body; the scripts write it in production.
func AppendRecord(b []byte, rec Record) []byte {
	b = append(b, recordFormat)
	b = appendInt48(b, rec.OccurredMs)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(rec.Entries)))
	for _, e := range rec.Entries {
		b = append(b, byte(e.Kind))
		b = binary.LittleEndian.AppendUint64(b, e.Seq)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Amount))
		b = append(b, byte(len(e.Account)))
		b = append(b, e.Account...)
		b = append(b, e.ID[:]...)
		b = binary.LittleEndian.AppendUint32(b, e.Units)
		note := AppendNote(nil, e.Note)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(note)))
		b = append(b, note...)
		b = append(b, byte(len(e.Lines)))
		for _, l := range e.Lines {
			b = append(b, l.Grant[:]...)
			for _, c := range [...]Credits{l.Granted, l.Spent, l.Returned, l.Lapsed, l.Revoked, l.Debt} {
				b = binary.LittleEndian.AppendUint64(b, uint64(c))
			}
		}
	}
	return b
}
