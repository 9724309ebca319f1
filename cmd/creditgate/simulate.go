package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"creditgate/meter/policy"
)

func (a *app) simulateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "simulate FILE SCENARIO",
		Short: "Play a scenario against a policy on private servers; status 1 if anything differs from what it expects",
		Long: "Play a scenario, a list of dated steps, against a policy file: a private Redis, a private Postgres and a gateway\n" +
			"with a test clock are started, the steps go through its API, and what each did to the balances is printed, with\n" +
			"the ledger entries at the end. Status 1 if anything differs from what the scenario expects. Nothing is left.\n\n" +
			"Scenarios of the seed products lie in meter/policy/examples/scenarios.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.simulate(cmd.Context(), args[0], args[1]) },
	}
}

// simulateStop bounds how long the parts may take to end in order; what is left is killed.
const simulateStop = 30 * time.Second

func (a *app) simulate(ctx context.Context, policyFile, scenarioFile string) error {
	p, err := policy.Load(policyFile)
	if err != nil {
		return a.mistakes(err)
	}
	story, err := policy.LoadScenario(scenarioFile, p)
	if err != nil {
		return a.mistakes(err)
	}
	err = a.playStory(ctx, policyFile, p, story)
	if err != nil && ctx.Err() != nil {
		return &statusError{status: exitUnchecked, err: errors.New("stopped before the end: what came after was not checked")}
	}
	return err
}

// playStory starts everything, plays the story, and ends everything.
func (a *app) playStory(ctx context.Context, policyFile string, p *policy.Policy, story *policy.Scenario) (err error) {
	r, err := openRoom(ctx, a, policyFile, story.Start)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	play := &play{
		room: r, policy: p, story: story, at: story.Start, subscribed: map[string]time.Time{},
		table: newStoryTable(a.out, p, story),
	}
	if err := play.run(ctx); err != nil {
		return err
	}
	if err := r.settle(); err != nil {
		return err
	}
	if err := play.entries(ctx); err != nil {
		return err
	}
	if n := len(play.differences); n > 0 {
		_, _ = fmt.Fprintf(a.out, "\n%d of %d steps differ:\n", play.differing, len(story.Steps))
		for _, d := range play.differences {
			_, _ = fmt.Fprintln(a.out, "  "+d)
		}
		return &statusError{status: exitFailed}
	}
	_, _ = fmt.Fprintf(a.out, "\nOK: all %d steps are as they must be.\n", len(story.Steps))
	return nil
}

// mistakes shows what is wrong in a file line by line, as editors read it: file:line:column.
func (a *app) mistakes(err error) error {
	if _, ok := errors.AsType[*policy.FileError](err); ok {
		_, _ = fmt.Fprintln(a.err, err)
		return &statusError{status: exitFailed}
	}
	return err
}
