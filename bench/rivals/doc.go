// Package rivals holds what the gateway is measured against: a backend, the same proxy without metering, and three
// ways in which a competent team would meter without this project. Each is a whole thing in a process of its own,
// on real servers, and none is made slower than it has to be.
//
//	backend   answers at once or after a delay; stands behind everything that is measured
//	proxy     authenticates and forwards: the floor
//	naive     the proxy, with one EVALSHA before and one after the forwarded request
//	pgrow     the proxy, with row locks in Postgres: one statement before and one after
//	nginx     the web server with its Lua module, with the scripts of naive
//
// All of them know the account of an API key from a map in memory, price a request at one credit, draw on grants in
// the order of their expiry, charge before the client has its answer, and give back what a failed backend did not
// deliver. naive, pgrow and proxy are one program that differs in the metering step alone.
//
// What they do not do, and creditgate does: a ledger out of Redis (naive, nginx: they count what an account spent,
// and nothing says for what; pgrow writes a ledger row), leases (a hold stays for ever when its proxy dies),
// idempotency (a repeated request is charged again, and a repeated commit is refused, not answered as before),
// prices from a policy, partial delivery, expiry of grants with an entry, streaming of large bodies, and anything at
// all for the time in which Redis or Postgres is away: they answer 503 and forget the hold.
//
// Every choice that was open was made in the rival's favour: pools were sized by measuring, Postgres need not wait
// for its disk at a commit (synchronous_commit=off loses about as little as Redis' appendfsync everysec does), holds
// have no expiry that Redis would have to keep track of, the garbage collector has the headroom that it has in
// creditgate, and nothing is logged.
//
//	rivals.go    Main: the command line, and which target is which
//	backend.go   the backend
//	proxy.go     the proxy, and where metering hooks in
//	naive.go     metering by two scripts: reserve.lua, settle.lua
//	pgrow.go     metering by two statements: pgrow.sql
//	nginx.go     nginx in a directory of its own: nginx.conf.tmpl, nginx.lua
//	nginx_process.go, child_linux.go, child_other.go   its life
package rivals
