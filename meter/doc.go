// Package meter owns the nouns of credit metering and everything that speaks to Redis about them: credits,
// grants, reservations and ledger entries as pure code, and the engine that carries verbs to the scripts in
// package lua, which alone decide: functions of a library that Redis runs, called scripts for short.
//
// It refuses to know HTTP and SQL: what it needs from Postgres it asks of a Book.
//
//	credits.go      amounts, in thousandths, checked
//	id.go           UUIDv7 ids, reservation ids, names
//	clock.go        the time that decides, and how a test moves it
//	layout.go       partitions and the names of Redis keys
//	grant.go        grants, accounts, balances, drain order
//	drain.go        the pure burn-down: which grants pay, which get back
//	reservation.go  states, reservations, notes
//	entry.go        ledger records, entries, lines
//	codec.go        the packed bytes of all of these, shared with the scripts
//	meta.go         the packed bytes of a partition's head, fence and clock
//	reader.go       how codec.go walks them
//	verbs.go        what can be asked, and the codes of the answers
//	book.go         what the engine asks of Postgres
//	errors.go       sentinels
//
// and the engine, downwards from a verb to Redis:
//
//	engine.go       the verbs, and how one is carried until it has a decision
//	load.go         bringing accounts from Postgres into Redis; load_holds.go finds their open reservations
//	batcher.go      concurrent operations share a flight
//	flight.go       one flight: attempts, refusals, scripts that raise
//	call.go         one FCALL: its keys, its argument, its reply
//	op.go           one operation: its bytes, its decision
//	redis.go        the client's settings, what Redis must be set to
//	partition.go    whether a partition is open, and its fence
//	opening.go      comparing a partition with Postgres before it is used
//	closed.go       why a partition stays closed, what to do then, and what that costs
//	run.go          what runs beside the verbs
//	health.go       whether Redis would take a reservation, and which partitions are closed
//	alive.go        that this gateway runs, for the others
//	sweeper.go      leases and old outcomes
//	lapser.go       what grants have left when they end
//	ledger.go       reading the ledger for whoever persists it; records.go is what that brings
//	replay.go       answers kept for an Idempotency-Key
//	inspect.go      what Redis holds, read without scripts, for people and for verify
//	log.go          where the Redis client says what it has to say
//	metrics.go      figures
package meter
