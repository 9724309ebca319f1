package main

import (
	"context"
	"sync"
	"time"
)

// How a process that died is started again: at once, unless it lived too short to have been of use.
const (
	livedMin   = time.Second
	againPause = 500 * time.Millisecond
)

// supervise keeps every part alive until ctx ends.
func (d *dev) supervise(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range []part{d.redis, d.postgres, d.backend, d.gateway} {
		all.Go(func() { d.keep(ctx, p) })
	}
	all.Wait()
	d.log.Info().Msg("stopping")
}

// keep starts a part again whenever it dies.
func (d *dev) keep(ctx context.Context, p part) {
	for {
		born, pid := time.Now(), p.pid()
		select {
		case <-ctx.Done():
			return
		case <-p.gone():
		}
		if ctx.Err() != nil {
			return
		}
		if d.options.noRestart {
			d.log.Warn().Str("log", p.logFile()).Msgf("%s died (pid %d); it stays dead because of --no-restart", p.label(), pid)
			return
		}
		d.log.Warn().Str("log", p.logFile()).Msgf("%s died (pid %d)", p.label(), pid)
		if time.Since(born) < livedMin && !sleep(ctx, againPause) {
			return
		}
		for {
			err := p.again(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			d.log.Error().Err(err).Msgf("%s does not start; trying again", p.label())
			if !sleep(ctx, againPause) {
				return
			}
		}
		d.log.Info().Msgf("%s started again (pid %d)", p.label(), p.pid())
		if err := d.writeJSON(); err != nil {
			d.log.Error().Err(err).Msg("dev.json")
		}
	}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
