package journal

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter/outage"
)

// Defaults of Options. Sixty-five thousand settlements are a minute of Redis outage at a thousand requests a
// second; at about 200 bytes each they fill a fifth of BytesMax, so it is the entries that run out first.
const (
	DefaultEntriesMax   = 65_536
	DefaultBytesMax     = 64 << 20
	DefaultSegmentBytes = 4 << 20

	segmentBytesMin int64 = int64(headerSize) + frameMax // one record of any size
	bytesMaxMax     int64 = 1 << 31                      // one batch may fill a segment; its offsets are 32 bits wide
)

// Options of a journal; the zero value of each field means its default.
type Options struct {
	// EntriesMax bounds the settlements not yet acknowledged. They are kept in memory too, at about half a
	// kilobyte each.
	EntriesMax int
	// BytesMax bounds the files together. Room for the mark of every pending entry is set aside, so that a full
	// journal can always be emptied.
	BytesMax int64
	// SegmentBytes is the size at which a new segment is begun. A finished segment is deleted whole.
	SegmentBytes int64
	// Log gets what a person should know: a cut tail, a failed write, an entry that was refused for good.
	Log zerolog.Logger
	// Outage counts the settlements that could not be written, whose errors are ErrWrite, and is told of a success; or nil.
	Outage *outage.Server
	// Metrics is where the journal's metrics are registered; nil registers none.
	Metrics prometheus.Registerer
}

func (o Options) withDefaults() (Options, error) {
	if o.EntriesMax == 0 {
		o.EntriesMax = DefaultEntriesMax
	}
	if o.BytesMax == 0 {
		o.BytesMax = DefaultBytesMax
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = min(DefaultSegmentBytes, o.BytesMax/4)
	}
	switch {
	case o.EntriesMax < 1:
		return o, fmt.Errorf("journal: EntriesMax is %d, must be at least 1", o.EntriesMax)
	case o.SegmentBytes < segmentBytesMin:
		return o, fmt.Errorf("journal: SegmentBytes is %d, must be at least %d", o.SegmentBytes, segmentBytesMin)
	case o.BytesMax < 2*o.SegmentBytes || o.BytesMax > bytesMaxMax:
		return o, fmt.Errorf("journal: BytesMax is %d, must be from twice SegmentBytes (%d), or nothing could be "+
			"deleted before the journal is full, to %d", o.BytesMax, 2*o.SegmentBytes, bytesMaxMax)
	}
	return o, nil
}
