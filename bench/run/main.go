package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"creditgate/bench/rivals"
)

// Exit statuses.
const (
	statusFailed = 1
	statusUsage  = 2
	statusAway   = 3 // a target's programs are not installed; bench/stage knows it
)

func main() { os.Exit(start(os.Args[1:])) }

func start(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, args)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusUsage
	case errors.Is(err, rivals.ErrNotHere):
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusAway
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusFailed
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "target":
			if len(args) < 2 {
				return fmt.Errorf("%w: target needs a name, one of %v", errUsage, rivals.Names())
			}
			return rivals.Main(ctx, args[1], args[2:], os.Stdout)
		case "load":
			return serveClient(ctx, os.Stdin, os.Stdout)
		}
	}
	c, err := parseFlags(args, os.Stderr)
	if err != nil {
		return err
	}
	if c.list {
		listSuites(os.Stdout)
		return nil
	}
	return measureAll(ctx, c, os.Stdout)
}
