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
//	schedule.go     which grants a subscription gives, when; what a change within a cycle brings, and ends
//	given.go        what a subscription was given, the cycle that it is in by that, and how much counts in a cycle
//	gift.go         what a term gives in a bucket, and which of two gives less
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
//	require.go      the file: what each request of an operation must meet
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
//	failure.go      answers that show that nothing was delivered, although their status is 2xx
//	offer.go        which packs an account may buy, and their validity in words
//	quote.go        units, price, a negotiated price, delivered units
//	summary.go      what policy check prints
//	assume.go       what a policy decides that descriptions of products leave open
//	scenario.go     stories to be played against a policy; their steps
//	scenario_act.go the actions of a step
//	scenario_value.go  local times, stretches of time, names and amounts in them
//	diff.go         what changes for whom between two policies
//
// # What `delivered` means
//
// Without a `delivered` rule a 2xx delivers all units, and any other status none. With one, the rule counts the units in
// the JSON body of a 2xx, at most as many as were asked for. Where it cannot be counted, nothing is charged, and the
// answer decides what the client gets. Evidence of failure passes unchanged: a 2xx with no body, such as a 204; a
// text/html or text/plain that is not JSON; a JSON object with a member `error`, unless that is null, false, 0 or empty.
// Any other answer is withheld, because a mistake in the rule would otherwise give every result away: the client gets a
// 502 upstream-uncountable, and the gateway logs the operation with its rule. An answer with a Content-Encoding cannot be
// read and is withheld too; the backend was told Accept-Encoding: identity. A rule with a default counts it for an answer
// without the member: `len(response.data) ?? 0` lets every JSON answer without data pass.
//
// # What an operation requires
//
// A priced operation may list up to eight conditions. A request that does not meet one gets 400 invalid-request with the
// words of else, before anything is held; the quote route answers alike. The param of the error is the first name in
// that. A condition that cannot be told, such as a comparison with an absent name, is not met.
//
//	require:
//	  - {that: given(body.background) or given(parts.background), else: A background is missing.}
//
// given(name) is true if the name was sent with anything in it: null, an empty text and an empty list are not given.
//
// # The rules of the seed products
//
// Each rule of the three products that this language was made for, the line of its example that says it, and what
// that comes to. TestSeedRules in cmd/creditgate has a subtest of each id, which plays the rule against the real system.
//
// visual-foundry:
//
//	A1   match: POST /v1/images/generations          credits are what this route takes
//	A2   credits: 1                                  one photo, one credit
//	A3   packs:                                      granted when bought: grant_on is invoice by default
//	A4   expires: never                              usable at any time
//	A5   delivered: len(response.data)               charged by itself, for the photos that came
//	A6   expires: never                              and no cycle: nothing is reset
//	A7   photos-15: {bucket: purchased, credits: 15  15 credits, 15 photos
//	A8   price: 150.00 TRY                           a sale, known by the shop's reference
//
// ai-background-studio:
//
//	B1   match: POST /studio/apply                               the apply button is the charge
//	B2   - that: given(body.background)                          a logo alone is 400, before anything is held
//	B3   credits: 1                                              whatever the photo gets
//	B4   credits: 1                                              again for other settings
//	B5   revert: {match: POST /studio/revert, credits: 0}        free
//	B6   report: {match: POST /studio/report, credits: 0}        free, and again
//	B7   units: len(body.photos)                                 per photo
//	B8   credits: 1                                              two requests, two credits
//	B9   credits: 1                                              moving the logo is a request
//	B10  {monthly: {credits: slots * 10}                         by plan and slots
//	B11  premium: {monthly: {unlimited: true, fair_use: 20000}}  beyond it 429
//	B12  professional_plus: {monthly: {credits: slots * 10}      50 slots, 500 credits
//	B13  professional: {monthly: {credits: slots * 5}            5 is an assumption
//	B14  basic: {packs: [basic-100, basic-500, basic-2000]}      no contingent
//	B15  cycle: {anchor: {day_of_month: 1}}                      day 1 is an assumption
//	B16  cycle: {anchor: {day_of_month: 1}}                      what is left lapses there
//	B17  advice: {wait_days: 7}                                  the balance says when; quote and 402 say wait
//	B18  lasts: 4w                                               28 days
//	B19  buckets: [promo, monthly, purchased]                    promo is drained first
//	B20  promo: launch                                           on Professional Plus only
//	B21  starts: 2026-03-16                                      the window is the launch's, not the account's
//	B22  per: cycle                                              one grant in each month that it touches
//	B23  credits: 1                                              not there: 402, never below 0
//	B24  packs: [plus-50, plus-200, plus-500]                    bought by a request, never by a balance
//	B25  purchases: {grant_on: invoice                           at any time; while_credit_left is allow by default
//	B26  expires: {after: 1y}                                    from each purchase, to the end of that day
//	B27  packs_per_plan: 3                                       or the file is refused
//	B28  volume_discount: required                               0.90, 0.80, 0.70: not falling is refused
//	B29  discounts: none                                         a lower net price is refused, and a lower price of a unit
//	B30  packs: [basic-100, basic-500, basic-2000]               a list for each plan
//	B31  grant_on: invoice                                       usable before it is paid
//	B32  buckets: [promo, monthly, purchased]                    drain order
//	B33  buckets: [promo, monthly, purchased]                    purchased is last
//	B34  buckets: [promo, monthly, purchased]                    the balance's total
//	B35  buckets: [promo, monthly, purchased]                    the balance by bucket
//
// 3d-studio:
//
//	C1   packs: [extra-200, extra-1000]                                beside the subscription's credits
//	C2   expires: next_renewal                                         wherever that moves
//	C3   packs: [extra-200, extra-1000, extra-5000]                    as often as wanted
//	C4   expires: next_renewal                                         the end of the cycle
//	C5   cycle: {anchor: subscription_start}                           monthly, also when paid by the year
//	C6   needs_subscription: true                                      Starter or Pro
//	C7   buckets: [subscription, pack]                                 the balance by bucket
//	C8   buckets: [subscription, pack]                                 the balance's total
//	C9   buckets: [subscription, pack]                                 drain order
//	C10  refundable: false                                             a refund is 409 not-refundable
//	C11  trial: {match: POST /3d/trial, credits: 0}                    free, at a balance of 0 too
//	C12  credits: '{"turbo": 20, "pro": 38, "ultra": 80}[body.model]'  and 1 and 15 for the other two
//	C13  packs:                                                        in the answer to the purchase; 202 while Redis is away
//	C14  {bucket: pack, credits: 200                                   a bucket pays for every operation
package policy
