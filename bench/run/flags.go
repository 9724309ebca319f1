package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"creditgate/bench/rivals"
	"creditgate/bench/stage"
)

var errUsage = errors.New("wrong usage")

// config is what can be chosen.
type config struct {
	suites  []string
	targets []string
	rounds  int // 0: each suite's own
	length  time.Duration
	quick   bool
	list    bool
	name    string
	out     string
	dir     string
	binary  string
	args    []string
}

// Lengths of a cell.
const (
	lengthUsual = 3 * time.Second
	lengthQuick = time.Second
	lengthMin   = 50 * time.Millisecond
)

// roundsMax bounds repetition.
const roundsMax = 100

func parseFlags(args []string, out io.Writer) (*config, error) {
	c := &config{args: args}
	var suites, targets string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&suites, "suite", "", "measure only these suites, separated by commas; see -list")
	f.StringVar(&targets, "target", "", "measure only these targets, separated by commas: "+strings.Join(targetNames(), ", "))
	f.IntVar(&c.rounds, "rounds", 0,
		"how often each cell is measured; 0: three times where the figures that matter come from, else once")
	f.DurationVar(&c.length, "length", 0, "how long a cell is measured; 0: 3s, with -quick 1s")
	f.BoolVar(&c.quick, "quick", false, "fewer and shorter cells, no million of accounts: about three minutes")
	f.BoolVar(&c.list, "list", false, "list the suites and end")
	f.StringVar(&c.name, "name", "", "name of the results; empty: date and time")
	f.StringVar(&c.out, "out", "bench/results", "directory of the results")
	f.StringVar(&c.dir, "dir", "", "directory for the servers' data, which stays; empty: a temporary one")
	f.StringVar(&c.binary, "binary", "./creditgate", "the program that is measured; make build builds it")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%w: %q is no flag; -h lists them", errUsage, f.Arg(0))
	}
	c.suites, c.targets = words(suites), words(targets)
	return c, c.check()
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// targetNames are all that can be measured.
func targetNames() []string {
	return append([]string{stage.Free, stage.Metered}, rivals.Names()...)
}

func (c *config) check() error {
	for _, name := range c.suites {
		if !slices.ContainsFunc(suites(), func(s suite) bool { return s.name == name }) {
			return fmt.Errorf("%w: -suite %s: there is none of that name; -list shows them", errUsage, name)
		}
	}
	for _, name := range c.targets {
		if !slices.Contains(targetNames(), name) {
			return fmt.Errorf("%w: -target %s: there is none of that name; it is one of %v", errUsage, name, targetNames())
		}
	}
	if c.length == 0 {
		c.length = lengthUsual
		if c.quick {
			c.length = lengthQuick
		}
	}
	if c.length < lengthMin || c.rounds < 0 || c.rounds > roundsMax {
		return fmt.Errorf("%w: -length %s -rounds %d: at least %s, and at most %d rounds",
			errUsage, c.length, c.rounds, lengthMin, roundsMax)
	}
	if c.name == "" {
		c.name = time.Now().Format("2006-01-02-150405")
	}
	return nil
}

// wants reports whether a suite is to be measured.
func (c *config) wants(suite string) bool {
	return len(c.suites) == 0 || slices.Contains(c.suites, suite)
}

// chosen are those of the targets that are to be measured.
func (c *config) chosen(targets ...string) []string {
	if len(c.targets) == 0 {
		return targets
	}
	return slices.DeleteFunc(slices.Clone(targets), func(t string) bool { return !slices.Contains(c.targets, t) })
}

// command is what repeats the run.
func (c *config) command() string {
	if len(c.args) == 0 {
		return "make bench"
	}
	return fmt.Sprintf("make bench ARGS=%q", strings.Join(c.args, " "))
}

// directory is where the servers keep their data, and how it is removed.
func (c *config) directory() (string, func() error, error) {
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "creditgate-bench")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	//nolint:gosec // the directory is the one that the user names with -dir
	return c.dir, func() error { return nil }, os.MkdirAll(c.dir, 0o750)
}
