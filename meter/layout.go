package meter

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Layout says how accounts are spread: its number, raised whenever the partitions change, and their count. It is
// kept in Postgres and in every partition's meta; a gateway configured otherwise refuses to start.
type Layout struct {
	Number     uint16
	Partitions uint16
}

// PartitionsMax bounds a layout. 256 partitions fill the largest Cluster the bench extrapolates to.
const PartitionsMax = 256

// text is how Redis keeps the layout.
func (l Layout) text() string { return fmt.Sprintf("%d/%d", l.Number, l.Partitions) }

// PartitionOf is the partition of an account: FNV-1a of its name, modulo the partitions. It may never change
// within a layout.
func (l Layout) PartitionOf(account string) uint16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(account))
	return uint16(h.Sum32() % uint32(l.Partitions))
}

// NewReservationID places a new id in the account's partition.
func (l Layout) NewReservationID(id ID, account string) ReservationID {
	return ReservationID{Layout: l.Number, Partition: l.PartitionOf(account), ID: id}
}

// Slot widths. An id's outcome lives in the slot of the id's creation time, so that whole slots can be dropped
// and a look-up needs no index.
const (
	doneSlotMs = 5 * 60 * 1000       // reservation → outcome
	keySlotMs  = 24 * 60 * 60 * 1000 // Idempotency-Key → current reservation
)

// SlotNoteMs is how exactly `slots` knows when an outcome slot was last written; the slot is kept that much longer.
const SlotNoteMs = 10 * 1000

// DoneSlot is the number of the outcome slot of reservations created at createdMs.
func DoneSlot(createdMs int64) int64 { return createdMs / doneSlotMs }

// Keys names the Redis keys of one partition. All carry the partition's hash tag, so that they share a Cluster
// slot and one script may touch them together.
type Keys struct {
	tag string // "{cg1:03}:"
}

// Keys returns the key names of partition p.
func (l Layout) Keys(p uint16) Keys {
	return Keys{tag: fmt.Sprintf("{cg%d:%02d}:", l.Number, p)}
}

// Meta is the STRING with the partition's head, fence and clock.
func (k Keys) Meta() string { return k.tag + "meta" }

// Ledger is the STREAM of records not yet trimmed.
func (k Keys) Ledger() string { return k.tag + "ledger" }

// Open is the HASH of open reservations.
func (k Keys) Open() string { return k.tag + "open" }

// Slots is the HASH of outcome slots in use → the time of their last write.
func (k Keys) Slots() string { return k.tag + "slots" }

// Account is the STRING with one account's packed state.
func (k Keys) Account(account string) string { return string(k.appendAccount(nil, account)) }

// Done is the HASH of outcomes of reservations created in the same slot as createdMs.
func (k Keys) Done(createdMs int64) string { return string(k.appendDone(nil, createdMs/doneSlotMs)) }

// KeyDay is the HASH of Idempotency-Key records of the day that contains ms.
func (k Keys) KeyDay(ms int64) string { return string(k.appendKeyDay(nil, ms/keySlotMs)) }

// accountMark stands between the tag and an account's name.
const accountMark = "a:"

// accountPrefix is the length of what stands before the account's name in its key.
func (k Keys) accountPrefix() int { return len(k.tag) + len(accountMark) }

func (k Keys) appendAccount(b []byte, account string) []byte {
	return append(append(append(b, k.tag...), accountMark...), account...)
}

func (k Keys) appendDone(b []byte, slot int64) []byte {
	return strconv.AppendInt(append(append(b, k.tag...), "done:"...), slot, 10)
}

func (k Keys) appendKeyDay(b []byte, day int64) []byte {
	return strconv.AppendInt(append(append(b, k.tag...), "keys:"...), day, 10)
}
