package persist

// The queries whose plans are looked at.
const (
	FirstEntry     = firstEntry
	UsageSums      = usageSums
	PendingChanges = pendingChanges
	DueLapses      = dueLapses
)
