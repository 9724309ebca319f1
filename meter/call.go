package meter

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"creditgate/lua"
)

// call is one EVALSHA: the operations of one flight that go to the same entry script, for one partition in Cluster
// or for any number elsewhere. KEYS and ARGV are described in lua/apply_settle.lua.
type call struct {
	script   lua.Script
	ops      []*op
	sections map[uint16]uint16 // partition → section number, from 1
	epochs   map[uint16]uint64 // section → the epoch it is called under
	keys     []string
	index    map[string]uint16 // key → position in KEYS, from 1
	header   []byte
	args     []any
}

// fence is what this gateway knows of a partition when it calls.
type fence struct {
	epoch   uint64
	minPseq uint64
}

func newCall(script lua.Script, ops []*op, layout Layout, fences func(uint16) fence, now time.Time) *call {
	c := &call{
		script: script, ops: ops, sections: make(map[uint16]uint16, 4),
		epochs: make(map[uint16]uint64, 4), index: make(map[string]uint16, 2*len(ops)+8),
		keys: make([]string, 0, 2*len(ops)+8), args: make([]any, 0, len(ops)+1),
	}
	c.header = appendInt48(make([]byte, 0, 64), now.UnixMilli())
	c.header = append(c.header, 0, 0)
	c.args = append(c.args, nil)
	for _, o := range ops {
		keys := layout.Keys(o.partition)
		section, ok := c.sections[o.partition]
		if !ok {
			section = c.addSection(keys, o.partition, fences(o.partition))
		}
		o.epoch = c.epochs[section]
		c.args = append(c.args, c.encode(o, keys, section, now))
	}
	binary.LittleEndian.PutUint16(c.header[6:], uint16(len(c.sections)))
	c.args[0] = c.header
	return c
}

func (c *call) addSection(keys Keys, partition uint16, f fence) uint16 {
	base := c.key(keys.Meta())
	for _, k := range [...]string{keys.Ledger(), keys.Open(), keys.Lapses(), keys.Slots()} {
		c.key(k)
	}
	c.header = binary.LittleEndian.AppendUint16(c.header, base)
	c.header = binary.LittleEndian.AppendUint64(c.header, f.epoch)
	c.header = binary.LittleEndian.AppendUint64(c.header, f.minPseq)
	section := uint16(len(c.sections) + 1)
	c.sections[partition] = section
	c.epochs[section] = f.epoch
	return section
}

func (c *call) key(k string) uint16 {
	if i, ok := c.index[k]; ok {
		return i
	}
	c.keys = append(c.keys, k)
	c.index[k] = uint16(len(c.keys))
	return uint16(len(c.keys))
}

func (c *call) encode(o *op, keys Keys, section uint16, now time.Time) []byte {
	var account, done uint16
	if o.account != "" {
		account = c.key(keys.Account(o.account))
	}
	if o.outcomes {
		done = c.key(keys.Done(o.id.CreatedMs()))
	}
	b := make([]byte, 0, 23+len(o.payload)+48)
	b = append(b, byte(o.verb))
	b = binary.LittleEndian.AppendUint16(b, section)
	b = append(b, o.id[:]...)
	b = binary.LittleEndian.AppendUint16(b, account)
	b = binary.LittleEndian.AppendUint16(b, done)
	if o.slotKey != "" {
		b = binary.LittleEndian.AppendUint16(b, c.key(o.slotKey))
	}
	b = append(b, o.payload...)
	if o.keyed {
		b = c.appendKeyPart(b, o, keys, now)
	}
	return b
}

// appendKeyPart names the days in which a key's record can be: around the id's own day, where it is written, and
// around today, since clocks differ at midnight and a settlement may come from a journal days later. Two days back,
// because a record that is kept for a day after its last write stands in the day of its id, which may be one older.
func (c *call) appendKeyPart(b []byte, o *op, keys Keys, now time.Time) []byte {
	if o.key == nil {
		return append(b, 0)
	}
	home := o.id.CreatedMs() / keySlotMs
	today := now.UnixMilli() / keySlotMs
	b = append(b, 1)
	b = append(b, o.key.Hash[:]...)
	b = append(b, o.key.Fingerprint[:]...)
	b = binary.LittleEndian.AppendUint16(b, c.key(keys.KeyDay(home*keySlotMs)))
	at := len(b)
	b = append(b, 0)
	newer, older, last := max(home, today), min(home, today), int64(math.MaxInt64)
	for _, day := range [...]int64{
		newer + 1, newer, newer - 1, newer - 2, older + 1, older, older - 1, older - 2,
	} {
		if day < last { // newest first, each once
			b = binary.LittleEndian.AppendUint16(b, c.key(keys.KeyDay(day*keySlotMs)))
			b[at]++
			last = day
		}
	}
	return b
}

// maybe notes that the call may have run without an answer.
func (c *call) maybe() {
	for _, o := range c.ops {
		o.maybe = true
	}
}

// queue adds the EVALSHA to a pipeline.
func (c *call) queue(ctx context.Context, pipe redis.Pipeliner) *redis.Cmd {
	return pipe.EvalSha(ctx, c.script.SHA, c.keys, c.args...)
}

// read hands each operation its reply. An error means that the reply is not one to this call.
func (c *call) read(reply any) error {
	parts, ok := reply.([]any)
	if !ok || len(parts) != len(c.sections)+len(c.ops) {
		return fmt.Errorf("%w: the reply does not fit the call", errMispaired)
	}
	heads := make([]sectionHead, len(c.sections))
	for i := range heads {
		if err := heads[i].unpack(parts[i]); err != nil {
			return err
		}
	}
	for i, o := range c.ops {
		s, _ := parts[len(heads)+i].(string)
		if len(s) < 17 || s[1:17] != string(o.id[:]) {
			return fmt.Errorf("%w: the reply echoes another id than %s", errMispaired, o.id)
		}
		o.code, o.body, o.err = Code(s[0]), []byte(s[17:]), nil
		o.head = heads[c.sections[o.partition]-1]
	}
	return nil
}

func (h *sectionHead) unpack(v any) error {
	s, _ := v.(string)
	r := reader{b: []byte(s)}
	h.code, h.epoch, h.pseq = Code(r.u8()), r.u64(), r.u64()
	h.nowMs, h.flushed, h.downMs = r.i48(), r.u64(), int64(r.u64())
	if err := r.end("section"); err != nil {
		return fmt.Errorf("%w: %w", errMispaired, err)
	}
	return nil
}
