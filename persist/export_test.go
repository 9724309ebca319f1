package persist

import "creditgate/meter"

// Clock is the store's clock, for tests to move.
func (s *Store) Clock() *meter.Clock { return s.clock }
