// Package stage sets up what the bench measures: Redis and Postgres with accounts in them, a backend, gateways, and
// the rivals, each a process of its own.
//
//	stage.go     one setting of everything, from start to end
//	servers.go   the Postgres that all stages share
//	cluster.go   a Redis Cluster, and what lies on which master
//	targets.go   what can be measured on a stage
//	gateway.go   `creditgate serve`
//	seed.go      accounts into Postgres
//	book.go      what the accounts have
//	renewals.go  subscriptions that renew at one midnight, and the clock that brings it
//	fill.go      accounts into Redis, through an engine
//	rest.go      waiting until Redis has done with it
//	process.go   a child process
//	counters.go  what a target and its client have used
//	memory.go    what Redis uses of accounts and holds
//	attr_*.go    what differs between Linux and the rest
package stage
