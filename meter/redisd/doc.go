// Package redisd starts a private redis-server (or valkey-server) on this machine: for tests, for `creditgate dev`
// and for simulations. The server listens on 127.0.0.1 only, keeps its data in a directory of its own, and is
// configured as production must be: append-only file, noeviction, nothing that expires credit.
//
// It refuses to manage a server that somebody else runs, to install one, and to run a directory twice: two servers
// on one append-only file would ruin it, so each holds a lock for as long as it lives. A server never outlives the
// process that started it, however that ends (Linux; elsewhere only an orderly end stops it, and the lock then
// names what is left).
//
//	server.go        Options, Start, and what can be done to a running Server
//	cluster.go       several of them as one Redis Cluster
//	process.go       one life of the server: fork, lock, log, exit
//	ready.go         when it is ready, and whether what answers is really ours
//	find.go          where the program is, and a free port
//	testing.go       Test, TestCluster: servers for one test
//	child_linux.go   dies with its parent; is it stopped yet
//	child_other.go   the same where the kernel offers neither
package redisd
