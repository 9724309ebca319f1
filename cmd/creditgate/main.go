package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	go obey(cancel)
	a := &app{environ: os.Environ(), out: os.Stdout, err: os.Stderr}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// signalStatus plus its number is the exit status of a process that a signal ended.
const signalStatus = 128

// obey ends the program's context at the first SIGINT or SIGTERM, so that it ends in order, and the process at the
// second, whatever it is doing.
func obey(cancel context.CancelFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
	cancel()
	if s, ok := (<-signals).(syscall.Signal); ok {
		os.Exit(signalStatus + int(s))
	}
}
