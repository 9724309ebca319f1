package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// app is the program with what it is given from outside, so that tests can give it something else.
type app struct {
	environ  []string
	out, err io.Writer
}

// Exit statuses. A check that could not be made is not a check that found something.
const (
	exitFailed    = 1
	exitUnchecked = 2
)

// statusError ends the program with a status of its own. A nil err says that all was said already.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// run executes one command line and returns the exit status. The end of ctx ends the command in order.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	status := exitFailed
	if with, ok := errors.AsType[*statusError](err); ok {
		status = with.status
		if with.err == nil {
			return status
		}
	}
	_, _ = fmt.Fprintln(a.err, "creditgate: "+indent(err.Error()))
	return status
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "creditgate",
		Short: "A credit-metering gateway in front of an image backend",
		Long: "creditgate reserves credits in Redis for each priced request, forwards it, charges for what was delivered,\n" +
			"and keeps the ledger in Postgres.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          noSuchCommand,
		Version:       versionLine(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(
		a.serveCommand(), a.devCommand(), a.studioCommand(), a.migrateCommand(), a.policyCommand(),
		a.inspectCommand(), a.verifyCommand(), a.ledgerCommand(), a.versionCommand(),
	)
	return root
}

// noSuchCommand runs a command that has only commands below it. cobra would show its help and report success.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %s %s?", cmd.CommandPath(), near[0])
	}
	return fmt.Errorf("there is no command %s %s; %s", cmd.CommandPath(), args[0], hint)
}

// configured makes a command that loads settings before it runs. names are the settings it has flags for; none means
// all of them.
func (a *app) configured(
	cmd *cobra.Command, run func(cmd *cobra.Command, c *config, args []string) error, names ...string,
) *cobra.Command {
	c := defaultConfig()
	c.addFlags(cmd, names...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.load(cmd.Flags(), a.environ); err != nil {
			return err
		}
		return run(cmd, c, args)
	}
	return cmd
}
