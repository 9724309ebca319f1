// Package postgresd runs a private PostgreSQL for `creditgate dev` and for tests: it finds the binaries, makes a
// cluster once per directory, starts it on loopback and stops it again. It also does what no production tool
// should: kill and freeze the whole server, because the crash tests need that.
//
// It refuses to be more: no tuning, no passwords (trust, on loopback and a private socket), no remote servers.
//
//	server.go      Start, Stop, Kill, Pause, Restart
//	cluster.go     where the data lies, initdb, the stale lock file
//	identity.go    as whom Postgres runs, since it refuses root
//	database.go    making a database; psql
//	find.go        which binaries
//	proc_*.go      what differs between Linux and the rest
package postgresd
