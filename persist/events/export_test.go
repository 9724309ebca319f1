package events

// What is asked of accounts that were touched.
const (
	Standings = standings
	Untold    = untold
)
