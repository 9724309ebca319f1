// Package gateway speaks HTTP: the data plane that carries priced requests to a backend, and the control plane by
// which operators manage accounts, credit and reservations.
//
// It owns the life of a request and what a client may see of it. It refuses to know Redis and Postgres: what it
// needs it declares in ports.go, and package cmd passes it in. A response reaches the client whole only after its
// charge is acknowledged by the meter or safe in the journal.
//
//	handler.go     the life of a request, top-down on one page: read this first
//	framing.go     the one strict reading of a request's head
//	exchange.go    one request on its way; which spellings of a path are taken
//	auth.go        who asks: API keys, trusted peers
//	keycache.go    what is remembered of keys, and for how long
//	body.go        reading bodies within bounds; which responses are streamed
//	forward.go     to the backend and back
//	delivered.go   what the answer is worth, and whether it passes
//	roundtrip.go   one request on a backend's connection
//	early.go       an answer that comes before the request was sent whole
//	headers.go     which header fields pass in each direction
//	relocate.go    fields that name a backend, such as Location
//	settle.go      reserve, commit, release, and the journal when the meter is away
//	fair_use.go    refusals of an account that is used up without having paid: fair use, free operations at zero
//	stream.go      responses that are passed on as they come, and settled before their end
//	holdback.go    the end of a stream that is kept until then
//	idempotency.go Idempotency-Key: its syntax, and the fingerprint of a request
//	replay.go      stored answers
//	upstream.go    backends: connections, breaker, what may be tried again
//	problem.go     the one table from problem to HTTP status
//	account.go     /credits: history, reservations, quote
//	query.go       … the query parameters that they take, and those of the control plane
//	balance.go     … balance: buckets, fair use, the next reset
//	advice.go      … whether to wait or to buy, for a quote and a 402
//	packs.go       … what the account may buy
//	usage.go       … what it was charged, by day, operation or key
//	views.go       the JSON shapes of the others
//	control*.go    the control plane, by noun
//	input.go       … the bodies that it takes, and how a wrong one is told
//	ready.go       /livez and /readyz
//	reload.go      other policies in force, without dropping a request
//	reload_all.go  … on every gateway
//	reload_order.go  whether live credit keeps its place in the drain order
//	metrics.go     creditgate_* figures
//	options.go     settings with their defaults
//	ports*.go      what the gateway asks of the rest of the house
//	server.go      listeners, connections, shutdown
//	newcomers.go   connections that were never used, which hold up no shutdown
//	deadline.go    connections whose deadlines cost nothing to move
//	lost_*.go      whether a client went away before it took its response
//	hungup_*.go    whether the peer of an idle connection has gone, or of a busy one has refused
//
// Two choices that the code alone does not explain. A response without a length is buffered like any other, so that
// its charge can stand in a header; only event streams are passed on as they come, an event late: the last one waits
// for the settlement. A response above the buffer is streamed too, with its last 32 KiB held back and its charge in a
// trailer, unless units are counted in it: then it cannot be read, and is refused.
package gateway
