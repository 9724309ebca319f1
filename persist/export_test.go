package persist

import "creditgate/meter"

// The queries whose plans are looked at.
const (
	FirstEntry = firstEntry
	UsageSums  = usageSums
)

// Clock is the store's clock, for tests to move.
func (s *Store) Clock() *meter.Clock { return s.clock }
