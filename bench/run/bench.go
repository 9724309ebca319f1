package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"creditgate/bench/report"
	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// bench is a run under way.
type bench struct {
	config   *config
	hall     *stage.Hall
	stage    *stage.Stage // the present one; nil before the first
	run      *result.Run
	progress *progress
	away     map[string]bool // targets whose programs are not here
}

// scene is an act of a suite that is measured.
type scene struct {
	suite string
	act
}

// measureAll measures what is chosen. Results are written after each cell, so that those of a run that is stopped, or
// fails, are there.
func measureAll(ctx context.Context, c *config, out io.Writer) (err error) {
	scenes := c.scenes()
	if len(scenes) == 0 {
		return fmt.Errorf("%w: no cell fits the chosen suites and targets", errUsage)
	}
	dir, remove, err := c.directory()
	if err != nil {
		return fmt.Errorf("directory for the servers' data: %w", err)
	}
	defer func() { err = errors.Join(err, remove()) }()
	b := &bench{config: c, progress: newProgress(out, scenes, c), away: map[string]bool{}}
	if b.hall, err = openHall(ctx, dir, c); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.leave(), b.hall.Close()) }()
	b.run = &result.Run{
		Name: c.name, Started: time.Now().UTC().Truncate(time.Second), Command: c.command(),
		Machine: machine(), Versions: versions(ctx, c.binary),
	}
	for _, s := range scenes {
		if err := b.play(ctx, s); err != nil {
			return fmt.Errorf("suite %s: %w", s.suite, err)
		}
	}
	page, err := report.Write(b.run, c.out)
	if err == nil {
		b.progress.end(page, filepath.Join(b.results(), c.name+".json"))
	}
	return err
}

// scenes are the acts of the chosen suites.
func (c *config) scenes() (out []scene) {
	for _, s := range suites() {
		if !c.wants(s.name) {
			continue
		}
		for _, a := range s.plan(c) {
			if c.rounds > 0 {
				for i := range a.cells {
					a.cells[i].rounds = c.rounds
				}
			}
			if len(a.cells) > 0 {
				out = append(out, scene{s.name, a})
			}
		}
	}
	return out
}

// results is the directory of this run's results.
func (b *bench) results() string { return filepath.Join(b.config.out, b.config.name) }

// play measures the cells of an act, round after round, so that what disturbs the machine for a while does not
// disturb one target alone.
func (b *bench) play(ctx context.Context, s scene) error {
	if err := b.enter(ctx, s.stage); err != nil {
		return err
	}
	for round, more := 1, true; more; round++ {
		more = false
		for i := range s.cells {
			c := &s.cells[i]
			more = more || round < c.rounds
			if round > max(1, c.rounds) {
				continue
			}
			if err := b.measure(ctx, s.suite, c, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure measures a cell once. A target that is not here is noted once and left out.
func (b *bench) measure(ctx context.Context, suite string, c *cell, round int) error {
	if b.away[c.target] {
		b.progress.skip(c, b.config)
		return nil
	}
	row := b.row(suite, c, round)
	var err error
	if c.special != nil {
		err = c.special(ctx, b, row)
	} else {
		err = b.load(ctx, c, row)
	}
	if errors.Is(err, stage.ErrNotHere) {
		b.away[c.target] = true
		b.note(fmt.Sprintf("target %s is not here: %v", c.target, err))
		b.progress.skip(c, b.config)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s, round %d: %w", c.target, round, err)
	}
	b.run.Rows = append(b.run.Rows, *row)
	b.progress.cell(row, c, b.config)
	_, err = b.run.Write(b.results())
	return err
}

func (b *bench) note(text string) {
	b.run.Notes = append(b.run.Notes, text)
	b.progress.note(text)
}

// enter sets up a stage, unless it is the present one.
func (b *bench) enter(ctx context.Context, o stage.Options) error {
	if o == (stage.Options{}) || b.stage != nil && b.stage.Options == o {
		return nil
	}
	if err := b.leave(); err != nil {
		return err
	}
	b.progress.setting(o)
	var err error
	b.stage, err = b.hall.Start(ctx, o)
	return err
}

func (b *bench) leave() error {
	if b.stage == nil {
		return nil
	}
	err := b.stage.Close()
	b.stage = nil
	return err
}

// row is an empty one with a cell's parameters.
func (b *bench) row(suite string, c *cell, round int) *result.Row {
	row := &result.Row{
		Suite: suite, Target: c.target, Round: round, Clients: c.clients, Share: c.share, Masters: 1, Body: result.BodyJSON,
		Extra: map[string]float64{},
	}
	if c.image {
		row.Body = result.BodyImage
	}
	if s := b.stage; s != nil {
		row.Masters = max(1, s.Masters)
		row.Accounts, row.Grants, row.Partitions, row.Gateways = s.Accounts, s.Grants, s.Partitions, s.Gateways
		row.BackendMS = float64(s.Delay) / float64(time.Millisecond)
		row.Extra[result.ExtraLoadSeconds] = s.LoadSeconds
		if c.active > 0 {
			row.Extra[result.ExtraActive] = float64(c.active)
		}
	}
	return row
}
