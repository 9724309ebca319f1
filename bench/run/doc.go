// Command run measures creditgate beside what it is compared with, on servers of its own, and writes the results.
//
//	run [flags]             measure; -list says what there is, -h the rest
//	run target NAME …       be one of the things that are compared (bench/rivals)
//	run load                ask one of them, as standard input says
//
// The files:
//
//	main.go       which of the three it is
//	flags.go      what can be chosen
//	suites.go     what is measured, suite by suite
//	plan.go       the words that suites are written in
//	bench.go      from the first cell to the last
//	cell.go       one cell: the client and the counters around it
//	special.go    cells that are no load: memory, the bare round trip
//	units.go      … and what single commands cost
//	renewals.go   everybody's month ends, under load
//	client.go     the client's process, from both its ends
//	progress.go   what is told meanwhile
//	machine.go    what it all ran on
package main
