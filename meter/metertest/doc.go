// Package metertest says what the scripts in package lua must do, without knowing how they do it: a reference model
// of one partition in maps, the invariants that hold after every verb, and a dump of a partition in clear. Tests of
// every package that moves credits hold real Redis against it.
//
// It refuses to be fast, to run in production, or to share code with what it judges, except the nouns of package
// meter and its pure burn-down.
//
//	state.go       one partition as values, from Redis or from the model
//	model.go       the verbs of a request: reserve, commit, release, extend, expire
//	admin.go       the verbs of an operator and of time: grant, revoke, lapse, move an expiry, suspend, load, drop
//	redis.go       reads a partition out of Redis
//	dump.go        a partition as text
//	book.go        Postgres as the engine sees it, in memory
//	invariants.go  what must hold between a state and its ledger, whatever happened
//	costs.go       counted costs held against a recorded table
package metertest
