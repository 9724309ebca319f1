package meter

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind is the kind of a ledger entry.
type Kind uint8

// The kinds of ledger entries, as finance.entries names them.
const (
	KindGrant Kind = iota + 1
	KindCommit
	KindRelease
	KindExpire
	KindLate
	KindUncollected
	KindLapse
	KindRevoke
	KindAdjust
	KindHold
)

// String is the word used in JSON and SQL.
func (k Kind) String() string {
	names := [...]string{
		"", "grant", "commit", "release", "expire", "late", "uncollected", "lapse", "revoke", "adjust", "hold",
	}
	if int(k) < len(names) && k > 0 {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Position is a place in a partition's ledger: the epoch and pseq of a record. pseq is dense and never reset.
type Position struct {
	Epoch uint64
	Pseq  uint64
}

// String is the record's stream id.
func (p Position) String() string { return fmt.Sprintf("%d-%d", p.Epoch, p.Pseq) }

// parsePosition reads String's form.
func parsePosition(id string) (Position, error) {
	epoch, pseq, _ := strings.Cut(id, "-")
	e, err := strconv.ParseUint(epoch, 10, 64)
	n, pseqErr := strconv.ParseUint(pseq, 10, 64)
	if err != nil || pseqErr != nil {
		return Position{}, fmt.Errorf("%w: %q is not a stream id", ErrPacked, id)
	}
	return Position{Epoch: e, Pseq: n}, nil
}

// Record is one ledger record: the entries of one batch in one partition. Body is the record as the script wrote
// it; the hash chain in Postgres is over these bytes.
type Record struct {
	Layout    uint16
	Partition uint16
	Position
	OccurredMs int64
	Entries    []Entry
	Body       []byte
}

// EntryID is the id of the i-th entry: layout, partition, pseq, index.
func (r Record) EntryID(i int) string {
	return fmt.Sprintf("%d-%02d-%d-%d", r.Layout, r.Partition, r.Pseq, i)
}

// Entry is one immutable ledger entry.
type Entry struct {
	Kind    Kind
	Seq     uint64  // dense per account
	Amount  Credits // what was reserved, granted, revoked or lapsed; for uncollected, what could not be charged
	Account string
	ID      ID     // of the reservation, grant, revocation or change
	Units   uint32 // delivered units of a commit, else 0
	Note    Note
	Lines   []Line
}

// Line is what an entry did to one grant. What a customer owns of a grant (available + held) changes by
// Granted − Spent − Lapsed − Revoked; Returned moved from held to available and changes nothing.
type Line struct {
	Grant    ID
	Granted  Credits
	Spent    Credits
	Returned Credits // given back by the reservation, before any of it lapsed or paid a debt
	Lapsed   Credits
	Revoked  Credits
	Debt     Credits // change of the grant's debt
}

// Credits is the change as the customer sees it.
func (l Line) Credits() Credits { return l.Granted - l.Spent - l.Lapsed - l.Revoked }
