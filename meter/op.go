package meter

import (
	"encoding/binary"
	"fmt"
)

// verb is the first byte of an operation; the number stands in the OP line of lua/verbs/*.lua.
type verb byte

const (
	verbReserve verb = iota + 1
	verbCommit
	verbRelease
	verbExpire
	verbExtend
	verbGrant
	verbRevoke
	verbLapse
	verbMoveExpiry
	verbSuspend
	verbRead
	verbLoad
	verbLoadKey
	verbFlushed
	verbDrop
	verbTick
	verbReverse
)

// verbBrief is added to a verb to ask for a brief answer.
const verbBrief = 128

// How many of its own keys a partition passes to a call: meta, open, ledger; slots.
const (
	sectionKeysMin = 3
	sectionKeysMax = 4
)

// sectionKeys is how many of its partition's own keys the operation may touch.
func (o *op) sectionKeys() int {
	switch o.verb {
	case verbCommit, verbRelease, verbExpire, verbLoadKey, verbDrop:
		return sectionKeysMax
	default:
		if o.key != nil { // a reserve with an Idempotency-Key writes the day's record
			return sectionKeysMax
		}
		return sectionKeysMin
	}
}

// What verbRead is asked for.
const (
	readAccount     = 1
	readReservation = 2
)

// op is one operation on its way to a script and back. The id is echoed by the reply, so that a reply that belongs
// to another operation is noticed.
type op struct {
	verb      verb
	layout    uint16 // of the reservation id, if the operation is about one
	partition uint16
	id        ID
	account   string // "" if the operation names none
	outcomes  bool   // the operation looks for the reservation with its id
	payload   []byte // what the verb file lists after the common head
	noted     Note   // what the payload says of it, so that an answer which repeats it need not be decoded anew
	brief     bool   // answered OK with the first briefSize bytes of the reservation
	key       *IdempotencyKey
	keyed     bool    // the payload ends with a key part
	slot      slotRef // verbDrop: sent before the payload

	epoch uint64 // of the last call that carried it
	maybe bool   // an attempt may have run without an answer: never reset
	code  Code
	body  []byte
	head  sectionHead
	err   error
}

// sectionHead is what a call says about a partition.
type sectionHead struct {
	code    Code
	epoch   uint64
	pseq    uint64
	nowMs   int64
	flushed uint64
	downMs  int64
}

func newOp(v verb, partition uint16, id ID, account string) *op {
	return new(op).about(v, partition, id, account)
}

// about begins the operation, which may have been used before.
func (o *op) about(v verb, partition uint16, id ID, account string) *op {
	*o = op{verb: v, partition: partition, id: id, account: account, payload: o.payload[:0]}
	if o.payload == nil {
		o.payload = make([]byte, 0, payloadUsual)
	}
	return o
}

// payloadUsual is what a reserve or commit with its note takes.
const payloadUsual = 160

func (o *op) u8(v byte) *op    { o.payload = append(o.payload, v); return o }
func (o *op) u32(v uint32) *op { o.payload = binary.LittleEndian.AppendUint32(o.payload, v); return o }

func (o *op) u64(v uint64) *op      { o.payload = binary.LittleEndian.AppendUint64(o.payload, v); return o }
func (o *op) i48(v int64) *op       { o.payload = appendInt48(o.payload, v); return o }
func (o *op) credits(c Credits) *op { return o.u64(uint64(c)) }
func (o *op) uuid(id ID) *op        { o.payload = append(o.payload, id[:]...); return o }

func (o *op) str8(s string) *op {
	o.payload = append(append(o.payload, byte(len(s))), s...)
	return o
}

func (o *op) bytes16(b []byte) *op {
	o.payload = append(binary.LittleEndian.AppendUint16(o.payload, uint16(len(b))), b...)
	return o
}

func (o *op) note(n Note) *op {
	o.noted = n
	at := len(o.payload)
	o.payload = AppendNote(append(o.payload, 0, 0), n)
	binary.LittleEndian.PutUint16(o.payload[at:], uint16(len(o.payload)-at-2))
	return o
}

func (o *op) keyPart(k *IdempotencyKey) *op { o.keyed, o.key = true, k; return o }

func reserveOp(r Reserve) *op { return new(op).reserve(r) }

func (o *op) reserve(r Reserve) *op {
	o.settle(verbReserve, r.ID, r.Account).brief = r.Brief
	holdsMax := r.MaxInFlight
	if holdsMax == 0 {
		holdsMax = InFlightMax
	}
	return o.credits(r.Amount).i48(r.Lease.Milliseconds()).u32(holdsMax).note(r.Note).keyPart(r.Note.Key)
}

func commitOp(s Settle, details, inLedger bool) *op { return new(op).commit(s, details, inLedger) }

// commit says with details that a commit may be booked late if Redis does not know the reservation, and with inLedger
// that Postgres may know its outcome.
func (o *op) commit(s Settle, details, inLedger bool) *op {
	o.settle(verbCommit, s.ID, s.Account).brief = s.Brief
	reserved := Credits(0)
	if details {
		reserved = s.Reserved
	}
	ask := byte(0)
	if inLedger {
		ask = 1
	}
	return o.credits(s.Amount).u32(s.Units).credits(reserved).u8(ask).note(s.Note).keyPart(s.Note.Key)
}

func settleOp(v verb, id ReservationID, account string) *op { return new(op).settle(v, id, account) }

// settle begins an operation on the reservation with this id.
func (o *op) settle(v verb, id ReservationID, account string) *op {
	o.about(v, id.Partition, id.ID, account)
	o.outcomes, o.layout = true, id.Layout
	return o
}

func grantOp(partition uint16, g GrantChange) *op {
	o := newOp(verbGrant, partition, g.Grant.ID, g.Account)
	return o.u64(g.CheckedPseq).u8(g.Grant.Rank).u8(g.Grant.flags()).str8(g.Grant.Bucket).credits(g.Grant.Available).
		i48(g.Grant.EffectiveMs).i48(g.Grant.ExpiresMs).i48(g.Grant.CreatedMs).note(g.Note)
}

func revokeOp(partition uint16, r Revocation) *op {
	o := newOp(verbRevoke, partition, r.ID, r.Account)
	undone := r.Undone
	if undone == nil {
		undone = new(Reversal)
	}
	return o.u64(r.CheckedPseq).uuid(r.Grant).credits(r.Amount).u8(byte(r.Beyond)).
		credits(undone.Amount).credits(undone.Grant.Debt).uuid(undone.ID).note(undone.Note).note(r.Note)
}

func reverseOp(partition uint16, r Reversal) *op {
	o := newOp(verbReverse, partition, r.ID, r.Account)
	return o.u64(r.CheckedPseq).uuid(r.Grant.ID).credits(r.Amount).credits(r.Grant.Debt).
		u8(r.Grant.Rank).u8(r.Grant.flags()).str8(r.Grant.Bucket).i48(r.Grant.EffectiveMs).i48(r.Grant.ExpiresMs).
		i48(r.Grant.CreatedMs).note(r.Note)
}

func moveExpiryOp(partition uint16, m ExpiryMove) *op {
	o := newOp(verbMoveExpiry, partition, m.ID, m.Account)
	return o.u64(m.CheckedPseq).uuid(m.Grant).i48(m.ExpiresMs).note(m.Note)
}

// decision reads the reply of an operation that went through.
func (o *op) decision(layout Layout) (Decision, error) {
	d := Decision{Code: o.code, NowMs: o.head.nowMs}
	id, body := o.id, o.body
	var err error
	switch {
	case o.code == CodeError:
		return d, fmt.Errorf("meter: %s %s: script: %s", o.verb, o.id, o.body)
	case len(body) == 0:
		return d, nil
	case o.code == CodeInsufficient || !o.outcomes:
		d.Account, err = UnpackAccount(body)
		return d, err
	case o.code == CodeKeyInProgress || o.code == CodeKeyReplay:
		if len(body) < len(id) {
			return d, fmt.Errorf("reply: %w", ErrPacked)
		}
		id, body = ID(body[:len(id)]), body[len(id):]
	}
	if o.brief && o.code == CodeOK {
		d.Reservation, err = unpackBrief(body)
		d.Reservation.Account = o.account
	} else {
		d.Reservation, err = unpackReservation(body, o.account, o.noted)
	}
	d.Reservation.ID = ReservationID{Layout: layout.Number, Partition: o.partition, ID: id}
	if d.Reservation.State == Held {
		d.Reservation.DeadlineMs += o.head.downMs // stored in up time while it runs, told in wall time
	}
	return d, err
}

// String is the verb's word.
func (v verb) String() string {
	names := [...]string{
		"", "reserve", "commit", "release", "expire", "extend", "grant", "revoke", "lapse", "move_expiry", "suspend",
		"read", "load", "load_key", "flushed", "drop", "tick", "reverse",
	}
	return names[v]
}
