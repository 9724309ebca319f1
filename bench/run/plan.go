package main

import (
	"context"
	"time"

	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// suite is one question, and the cells that answer it.
type suite struct {
	name string
	what string
	plan func(c *config) []act
}

// act is what is measured on one stage.
type act struct {
	stage stage.Options // the zero value: none
	cells []cell
}

// cell is one thing that is measured. Its fields' zero values are the usual.
type cell struct {
	target  string
	clients int
	rounds  int                                              // 0: one
	length  time.Duration                                    // 0: that of the run
	greet   bool                                             // every account is asked for once before it is warmed
	warm    time.Duration                                    // at least so long before it is measured
	active  int                                              // accounts that are asked for; 0: all
	image   bool                                             // 2 MB both ways
	share   float64                                          // open loop at this share of a capacity; 0: closed loop
	of      string                                           // whose capacity; empty: the target's own
	watch   bool                                             // look at the backlog all the time
	special func(context.Context, *bench, *result.Row) error // measures, where it is no load
}

// usual is the stage that most suites share.
func usual() stage.Options {
	return stage.Options{Accounts: 1000, Grants: 3, Partitions: 1, Gateways: 1} // partitions as by default
}

// on changes the usual stage.
func on(change func(*stage.Options)) stage.Options {
	o := usual()
	change(&o)
	return o
}

// each makes a cell for each target, in turn, so that rounds over them are interleaved.
func each(targets []string, c cell) []cell {
	out := make([]cell, len(targets))
	for i, target := range targets {
		out[i] = c
		out[i].target = target
	}
	return out
}

// pick is the second where the run is to be quick.
func pick[T any](c *config, usual, quick T) T {
	if c.quick {
		return quick
	}
	return usual
}
