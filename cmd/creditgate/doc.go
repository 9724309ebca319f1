// Command creditgate is the program: it reads settings, introduces the packages to each other, and talks to people.
//
// It owns what is about one process: settings, wiring, the order in which parts start and end, exit statuses, and the
// private machine room of `creditgate dev`. It refuses to decide anything about credit: what it prints about accounts
// it was told by meter and persist.
//
//	main.go, root.go   the command line, signals, exit statuses
//	settings.go        every setting with its default and what it is: the one place
//	value.go           how settings are read and shown
//	config.go          file, variables and flags; words.go helps their messages
//	serve.go           creditgate serve
//	heap.go            how often it collects garbage
//	node.go            one gateway: its parts, how they start, and the order in which they end
//	clock.go           the test clock, in the words of gateway's ports.go
//	adapters.go        persist and journal in the words of gateway's ports.go
//	adapters_events.go persist/events in the words of gateway and gateway/webhook
//	drift.go           compares Redis with Postgres now and then
//	logging.go         the logger
//	policies.go        creditgate policy check and diff, and loading one policy or a directory
//	simulate.go        creditgate policy simulate
//	simulate_room.go   its private servers and gateway
//	simulate_backend.go   its backend, which does what the scenario says
//	simulate_play.go   its steps, through the API
//	simulate_change.go the changes among them, and what a row of the table calls each
//	simulate_look.go   balances, compared with what the scenario expects
//	simulate_table.go  what it prints
//	migrate.go         creditgate migrate
//	inspect*.go        creditgate inspect
//	ledger.go          creditgate ledger quarantine and book
//	verify.go          creditgate verify; verify_redis.go is what package persist cannot see
//	studio.go          creditgate studio, the stand-in backend
//	version.go         creditgate version
//	dev.go             creditgate dev: what it starts, in which order
//	dev_dir.go         its directory
//	dev_parts.go       its Redis and Postgres, and free ports
//	child.go           its processes of this program; child_linux.go, child_other.go: how they end with it
//	dev_keep.go        starting again what died
//	dev_seed.go        the demo accounts
//	dev_tell.go        dev.json and the lines to paste
package main
