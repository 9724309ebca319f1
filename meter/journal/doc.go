// Package journal keeps, on this machine's disk, the settlements whose outcome is unknown because Redis was away
// when they were sent. A gateway may deliver a response once its settlement is acknowledged by Redis or once
// Append has returned: from then on a crash of the process or of the host cannot lose the charge.
//
// It owns the files of one directory, which one process may use at a time, and the repetition of what is in them
// until Redis decides. It refuses to grow without bound (ErrFull), to skip what it cannot read (CorruptError), and
// to settle anything itself: the verbs belong to a Settler. Repeating a settlement is safe because every verb is
// idempotent by reservation id, so a mark that says "done" need not be durable.
//
//	options.go   settings and their bounds
//	entry.go     an entry and its bytes
//	frame.go     length, checksum, payload: how records stand in a file
//	segment.go   one file: header, records, seal
//	recover.go   reading a directory: torn tails are cut, damage is an error
//	journal.go   Open, Append, Ack, Pending, Close
//	flight.go    group commit, rotation, deletion of finished segments
//	lock.go      one process per directory
//	disk.go      the five things asked of the file system
//	replay.go    the Replayer: retries entries until their outcome is final
//	metrics.go   gauges and counters
//
// A directory holds "lock" and numbered segments. A segment is a header and records; a record is
//
//	length u32 | CRC-32C u32 | payload        (little-endian)
//
// The checksum also covers the segment's number and the record's offset, so a record is valid in its own place
// only. Each payload says up to which offset the file was known to be on disk when the record was written. That is
// what tells a torn tail from damage: a bad record which a later record calls durable is damage, and Open fails;
// a bad record in the newest segment which nothing calls durable belongs to an Append that never returned, and is
// cut. Every segment but the newest ends with a seal, and so does the newest after Close.
package journal
