// Package measure reads what a cell of the bench has cost: CPU time by process, what Redis was asked, what the gateway
// allocated, and how far Postgres is behind Redis. Everything is a counter that is read before and after, so that
// measuring costs nothing in between.
//
//	process.go   CPU time of a process and its descendants, from /proc
//	redis.go     counters of one Redis or of several masters, from INFO
//	postgres.go  rows and log that Postgres wrote
//	gateway.go   counters of gateways, from /metrics
//	backlog.go   ledger records that Redis has and Postgres has not
package measure
