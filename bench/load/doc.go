// Package load asks a server for as much as it can take, or for a fixed number of requests per second, and measures
// how long the answers took.
//
// It shares few cores with everything that it measures, so it is light: requests are bytes that were built before,
// an answer is looked at only for its status and its length, and each connection is one goroutine. It runs as a
// process of its own, so that its CPU time can be told from the others'.
//
//	load.go        what is asked for, and the run from warm-up to result
//	closed.go      N clients, each sends its next request when it has the last answer; every account once before that
//	open.go        requests are due at fixed times, whatever became of those before
//	pace_*.go      waiting for the next due time
//	conn.go        one connection: write, read, dial again
//	answer.go      the little of HTTP/1.1 that an answer needs
//	recorder.go    counts and histogram
//	repeat.go      a closed loop over what is no HTTP request
package load
