// Package events tells what happened to accounts: a feed in Postgres that consumers read by number, and a queue from
// which it is posted to webhooks. Nothing here decides about credit, speaks HTTP, or is asked on the path of a request.
//
//	types.go      the types of events, what each says, with an example
//	feed.go       reading the feed
//	producer.go   one worker among all gateways: leading, rounds, metrics
//	tail.go       what the ledger says, partition by partition
//	level.go      how much an account has left: low, exhausted, fair use
//	walk.go       what comes with time: beginnings, endings
//	notice.go     the notices about grants that begin or end
//	renewal.go    subscriptions whose next cycle began
//	purchase.go   purchases that wait, and that were granted
//	insert.go     events get their numbers, and the webhooks their deliveries; what is old goes
//	endpoints.go  webhooks as they are set up
//	delivery.go   what is to be posted, attempts and back-off
//
// An event is in the feed once. The producer reads the ledger after a cursor that it moves in the transaction in which
// it writes the events, and each event carries a key that says what happened, which the feed takes once. Ids are given
// under the lock of one row, so they have no gaps and show up in their order: whoever has read up to n misses nothing
// by going on after n. Events stay for 90 days.
package events
