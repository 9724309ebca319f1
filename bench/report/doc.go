// Package report turns what one run of the bench left behind into a page that people read: report.html, which holds
// its plots, and report.md with the tables alone. Every figure is computed from the raw rows; none is typed in.
//
// A cell that was measured in several rounds is shown by its median, with the lowest and the highest. Rounds are
// interleaved over the targets, so a ratio of two targets is taken within each round before the median: what slowed
// the machine in one round slowed both.
//
//	report.go   Write: the two files
//	cells.go    rows by what was measured; medians and ratios
//	shows.go    what it must show, and whether it does
//	tables.go   the tables
//	units.go    single commands, here and where the bounds were set
//	cluster.go  a Redis Cluster, master by master
//	growth.go   what higher rates need, on paper
//	limits.go   where growth is uneven: few partitions, one hot account
//	renewals.go everybody's month ends at one midnight
//	plots.go    which plots there are
//	chart.go    lines, as SVG
//	bars.go     stacked bars, as SVG
//	axis.go     scales and ticks
//	text.go     how figures are written
package report
