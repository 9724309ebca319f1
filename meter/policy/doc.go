// Package policy reads the file in which a product team writes its credit rules down, and prices requests by it:
// which route is an operation, how many units a request asks for at most, what a unit costs, and how many units
// the answer delivered.
//
// It is pure: bytes in, numbers or a named problem out. It refuses to know HTTP servers, Redis, Postgres and the
// clock. It refuses to guess: a file with a mistake is refused whole, with every mistake named by line and column;
// a request whose price two readers could read differently is refused before anything is held.
//
//	policy.go       the policy and its operations, as the gateway uses them; bounds
//	plan.go         plans, promotions, packs, cycles and settings, as the rest of the house uses them
//	history.go      what was decided about an account's subscription
//	override.go     what was negotiated with one account
//	cycle.go        where cycles begin and end: anchors, month ends, clocks put forward and back; when packs expire
//	period.go       what is paid for, and how far ahead grants are issued
//	schedule.go     which grants a subscription gives, when
//	catalog.go      the policies in force, by product, and how they are replaced
//	amount.go       amounts that depend on slots
//	money.go        prices, and what a credit of a pack costs
//	calendar.go     spans, dates, times of day and cycles, as a file writes them
//	version.go      what the version of a policy is made of
//	parse.go        the file: top level, buckets, timezone; embedded examples
//	parse_plan.go   the file: plans
//	parse_promotion.go  the file: promotions
//	parse_pack.go   the file: packs
//	parse_rules.go  the file: settings, events, assumptions
//	operation.go    the file: one operation
//	reach.go        mistakes between parts of a file: price lists, and what nobody can reach
//	yaml.go         walking the YAML tree, each value with its path and place
//	problem.go      mistakes in a file
//	route.go        match: parsing, overlaps, finding the operation of a request
//	expression.go   compiling and running expressions; len and int
//	quick.go        the usual forms of expressions, run without the library's machine
//	analyse.go      what an expression reads and between which numbers it lies
//	analyse_ops.go  the same, by operator and function
//	shape.go        what is wanted from a document
//	request.go      from a request to the view that expressions see; sentinels
//	memory.go       what a view is made in, used by one request after another
//	media.go        Content-Type: which reader, and the boundary
//	json.go         the JSON reader: what is wanted
//	json_skip.go    the JSON reader: what is only checked
//	text.go         the reader of names with texts: query, form, header
//	multipart.go    the multipart reader
//	offer.go        which packs an account may buy, and their validity in words
//	quote.go        units, price, a negotiated price, delivered units
//	summary.go      what policy check prints
package policy
