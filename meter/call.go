package meter

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// call is one FCALL, or EVAL where that is not possible: the operations of one flight, those that settle first, for one
// partition in Cluster or for any number elsewhere. KEYS and ARGV are described in lua/apply.lua. Calls are used again:
// what they grew to fit a flight is kept for the next ones.
type call struct {
	function any // its name
	ops      []*op
	now      time.Time
	offset   time.Duration // of a test clock
	sections []section
	number   [PartitionsMax]uint16 // partition → section number, from 1; 0: none yet
	accounts map[string]uint16     // account → position in KEYS, from 1
	slots    map[slotRef]uint16    // outcome slot or key day → position in KEYS
	args     []any                 // FCALL function numkeys key… packed, or EVAL script numkeys key… packed function
	texts    []text                // what args of this call point to
	names    []byte                // the keys themselves
	packed   text                  // the one ARGV
	reply    *redis.StringCmd
}

// section is a partition in a call.
type section struct {
	partition *partition
	fence     fence
	head      sectionHead
}

// fence is what this gateway knows of a partition when it calls.
type fence struct {
	epoch   uint64
	minPseq uint64
}

// slotRef is an outcome slot or a key day of a partition.
type slotRef struct {
	partition uint16
	day       bool
	number    int64
}

// text is an argument that costs no allocation: a pointer to it fits into an interface as it is.
type text struct{ b []byte }

// MarshalBinary is how go-redis asks for the bytes.
func (t *text) MarshalBinary() ([]byte, error) { return t.b, nil }

// callKeysAt is where the keys begin in args.
const callKeysAt = 3

func newCalls() *sync.Pool {
	return &sync.Pool{New: func() any {
		// Maps grow to what flights need: clearing one costs as much as it has room for.
		return &call{accounts: make(map[string]uint16), slots: make(map[slotRef]uint16)}
	}}
}

// build encodes the operations, which are in ops, for a function of the library; with a script, for that to run it.
func (c *call) build(function, script string, partitions []*partition, now time.Time, offset time.Duration) {
	c.now, c.offset = now, offset
	if c.function != function {
		c.function = function // which allocates: a name in an interface
	}
	for _, s := range c.sections {
		c.number[s.partition.number] = 0
	}
	c.sections = c.sections[:0]
	clear(c.accounts)
	clear(c.slots)
	c.args, c.texts, c.names = append(c.args[:0], "fcall", c.function, nil), c.texts[:0], c.names[:0]
	if script != "" {
		c.args[0], c.args[1] = "eval", script
	}
	c.packed.b = appendInt48(c.packed.b[:0], now.UnixMilli())
	c.packed.b = append(c.packed.b, 0, 0, 0, 0)
	if c.offset != 0 {
		c.packed.b = appendInt48(c.packed.b, c.offset.Milliseconds())
	}
	keys := sectionKeysMin
	for _, o := range c.ops {
		keys = max(keys, o.sectionKeys())
	}
	for _, o := range c.ops {
		if c.number[o.partition] == 0 {
			c.addSection(partitions[o.partition], keys)
		}
		o.epoch = c.section(o).fence.epoch
	}
	binary.LittleEndian.PutUint16(c.packed.b[6:], c.sectionCount())
	binary.LittleEndian.PutUint16(c.packed.b[8:], uint16(len(c.ops)))
	for _, o := range c.ops {
		c.encode(o)
	}
	c.args[2] = len(c.args) - callKeysAt
	c.args = append(c.args, &c.packed)
	if script != "" {
		c.args = append(c.args, c.function)
	}
}

// callMoved is added to the number of sections when an offset follows. In production there is none, and it costs nothing.
const callMoved = 1 << 15

func (c *call) sectionCount() uint16 {
	n := uint16(len(c.sections)) // at most PartitionsMax
	if c.offset != 0 {
		n += callMoved
	}
	return n
}

func (c *call) section(o *op) *section { return &c.sections[c.number[o.partition]-1] }

func (c *call) addSection(p *partition, keys int) {
	s := section{partition: p, fence: p.fence()}
	c.sections = append(c.sections, s)
	c.number[p.number] = uint16(len(c.sections))
	first := len(c.args) - callKeysAt + 1
	c.args = append(c.args, p.sectionKeys[:keys]...)
	c.packed.b = binary.LittleEndian.AppendUint16(c.packed.b, uint16(first))
	c.packed.b = append(c.packed.b, byte(keys), byte(p.keys.accountPrefix()))
	c.packed.b = binary.LittleEndian.AppendUint64(c.packed.b, s.fence.epoch)
	c.packed.b = binary.LittleEndian.AppendUint64(c.packed.b, s.fence.minPseq)
}

// key adds the key whose bytes were appended to names from here on, and returns its position in KEYS, from 1.
func (c *call) key(from int) uint16 {
	c.texts = append(c.texts, text{b: c.names[from:len(c.names):len(c.names)]})
	c.args = append(c.args, &c.texts[len(c.texts)-1]) // stays valid when texts or names grow: they are copied then
	return uint16(len(c.args) - callKeysAt)
}

func (c *call) accountKey(k Keys, account string) uint16 {
	n, ok := c.accounts[account]
	if !ok {
		from := len(c.names)
		c.names = k.appendAccount(c.names, account)
		n = c.key(from)
		c.accounts[account] = n
	}
	return n
}

func (c *call) slotKey(k Keys, ref slotRef) uint16 {
	n, ok := c.slots[ref]
	if !ok {
		from := len(c.names)
		if ref.day {
			c.names = k.appendKeyDay(c.names, ref.number)
		} else {
			c.names = k.appendDone(c.names, ref.number)
		}
		n = c.key(from)
		c.slots[ref] = n
	}
	return n
}

// encode appends one operation.
func (c *call) encode(o *op) {
	k := c.section(o).partition.keys
	var account, done uint16
	if o.account != "" {
		account = c.accountKey(k, o.account)
	}
	if o.outcomes {
		done = c.slotKey(k, slotRef{partition: o.partition, number: o.id.CreatedMs() / doneSlotMs})
	}
	verb := byte(o.verb)
	if o.brief {
		verb += verbBrief
	}
	at := len(c.packed.b)
	b := append(c.packed.b, 0, 0, verb) //nolint:gocritic // c.packed.b is set to what b has become
	b = binary.LittleEndian.AppendUint16(b, c.number[o.partition])
	b = append(b, o.id[:]...)
	b = binary.LittleEndian.AppendUint16(b, account)
	b = binary.LittleEndian.AppendUint16(b, done)
	if o.verb == verbDrop {
		b = binary.LittleEndian.AppendUint16(b, c.slotKey(k, o.slot))
	}
	b = append(b, o.payload...)
	if o.keyed {
		b = c.appendKeyPart(b, o, k)
	}
	binary.LittleEndian.PutUint16(b[at:], uint16(len(b)-at))
	c.packed.b = b
}

// appendKeyPart names the days in which a key's record can be: around the id's own day, where it is written, and
// around today, since clocks differ at midnight and a settlement may come from a journal days later. Two days back,
// because a record that is kept for a day after its last write stands in the day of its id, which may be one older.
func (c *call) appendKeyPart(b []byte, o *op, k Keys) []byte {
	if o.key == nil {
		return append(b, 0)
	}
	day := func(n int64) uint16 { return c.slotKey(k, slotRef{partition: o.partition, day: true, number: n}) }
	home := o.id.CreatedMs() / keySlotMs
	today := c.now.UnixMilli() / keySlotMs
	b = append(b, 1)
	b = append(b, o.key.Hash[:]...)
	b = append(b, o.key.Fingerprint[:]...)
	b = binary.LittleEndian.AppendUint16(b, day(home))
	at := len(b)
	b = append(b, 0)
	newer, older, last := max(home, today), min(home, today), int64(math.MaxInt64)
	for _, n := range [...]int64{
		newer + 1, newer, newer - 1, newer - 2, older + 1, older, older - 1, older - 2,
	} {
		if n < last { // newest first, each once
			b = binary.LittleEndian.AppendUint16(b, day(n))
			b[at]++
			last = n
		}
	}
	return b
}

// settles reports whether some of the operations are none of reserve, reserves whether some are.
func (c *call) settles() bool  { return c.ops[0].verb != verbReserve }
func (c *call) reserves() bool { return c.ops[len(c.ops)-1].verb == verbReserve }

// maybe notes that the call may have run without an answer.
func (c *call) maybe() {
	for _, o := range c.ops {
		o.maybe = true
	}
}

// command is the FCALL, whose reply read takes.
func (c *call) command(ctx context.Context) *redis.StringCmd {
	c.reply = redis.NewStringCmd(ctx, c.args...)
	return c.reply
}

// read hands each operation its reply. An error means that the reply is not one to this call. Bodies are parts of the
// reply, which is not used again.
func (c *call) read() error {
	reply, _ := c.reply.Bytes()
	r := reader{b: reply}
	for i := range c.sections {
		h := &c.sections[i].head
		h.code, h.epoch, h.pseq = Code(r.u8()), r.u64(), r.u64()
		h.nowMs, h.flushed, h.downMs = r.i48(), r.u64(), int64(r.u64())
	}
	for _, o := range c.ops {
		code, id := Code(r.u8()), r.id()
		body := r.take(int(r.u16()))
		if r.bad || id != o.id {
			return fmt.Errorf("%w: the reply echoes another id than %s, or is cut", errMispaired, o.id)
		}
		o.code, o.body, o.err, o.head = code, body, nil, c.section(o).head
	}
	if err := r.end("reply"); err != nil {
		return fmt.Errorf("%w: %w", errMispaired, err)
	}
	return nil
}
