// Command demo drives a real client through a fresh gateway and checks every credit: `make demo`.
//
// It starts `creditgate dev` in a directory of its own, sends the requests of a background studio, and compares each
// answer, each balance and at last the ledger in Postgres with what they must be. It exits with 1 if anything differs.
//
//	main.go     flags, the gateway as a child, the exit status
//	client.go   requests and what of the answers counts
//	story.go    the steps
//	books.go    finance's tables, and whether they equal Redis
//	report.go   a line a step
package main
