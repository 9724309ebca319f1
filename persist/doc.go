// Package persist speaks to Postgres, the system of record: accounts, keys and grants, which start here, and the
// ledger, which Redis decides and a flusher brings here exactly once.
//
// It refuses to decide about credit (the scripts do), to know HTTP, and to be asked on the path of a priced request.
//
//	store.go, errors.go    the connection pool, the layout check, sentinels
//	migrate.go, roles.go   schema versions and roles; migrations/ has the SQL, and the reason of each constraint
//	accounts.go, keys.go   accounts and API keys
//	lookups.go             questions that many ask at once share a query
//	identity.go            … whom a key belongs to, with subscription and negotiated prices
//	changes.go             grants, revocations, expiry moves: recorded once per reference
//	pending.go             what is recorded and not known to be in Redis
//	admin.go, sweeper.go   recorded first, applied to Redis in the same call, or later
//	purchase.go            packs that were bought, each granted once; purchase_order.go applies the policy to them
//	payment.go             that they were paid, or were not in time
//	clawback.go            what is taken back of them, what debt means, and how it is undone
//	book.go, outcome.go    what the engine asks: meter.Book and meter.RebuildSource
//	policy_use.go          how many accounts live by a product, a plan, a bucket at its place
//	fleet.go               the gateways on a database, which reload their policies together
//	clock.go               test databases, and the clock that moves in them
//	subscriptions.go       subscriptions: begun, changed, ended, shown; terms.go is what was decided about them
//	decide.go              … when a change counts
//	overrides.go           what was negotiated with one account
//	subscriber.go          what deciding about accounts needs, read for many at once
//	reconcile.go           what is due against what was given
//	issue.go, apply.go     … recorded for many accounts in one transaction, sent to Redis side by side
//	issuer.go              the worker that is a cycle ahead
//	history.go             an account's entries, page by page
//	statement.go           what a balance and a billing page need beyond Redis: caps, debt, usage
//	flusher.go             why each record arrives exactly once; one worker per partition
//	flush_lead.go          the worker: leading, reading, reporting
//	flush_batch.go         what can be checked without Postgres; the hash chain
//	flush_conn.go          a connection that partitions share: locks, one transaction for those who wait
//	flush_write.go         … rows, encoded by copy.go; array.go is for arguments
//	flush_project.go       … projections, statuses
//	flush_metrics.go       rows, lag, pending, stopped
//	quarantine.go          accounts whose entries Postgres cannot book: the others go on
//	quarantine_release.go  … their entries, booked in order once they can be
//	quarantine_list.go     … what Postgres lacks, and what helps
//	quarantine_book.go     … a lost grant or change, booked by a person
//	trim.go                how long Redis keeps what is committed
//	watch.go               whether Postgres takes writes, for /readyz
//	verify.go              `creditgate verify`: verify_chain.go, verify_rows.go, verify_sums.go, verify_live.go
//
// persist/events makes the feed of events and keeps the webhooks' queue; persist/finance reads as finance does;
// persist/postgresd runs a private server; persist/persisttest gives each test a database.
package persist
