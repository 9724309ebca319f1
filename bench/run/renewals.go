package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"creditgate/bench/load"
	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// What is asked of the gateway all the time: far less than it can do, of accounts whose keys it holds after a while.
const (
	renewalRate    = 500 // requests per second
	renewalActive  = 1000
	renewalClients = 64
)

// Bounds of a renewal.
const (
	renewalMax   = 20 * time.Minute
	renewalLook  = 500 * time.Millisecond
	renewalSteps = 400 // pieces of load until it is over
	midnightLead = 2 * time.Second
	renewalEnds  = 4 // steps that are waited for
)

// renewals lets the month of all accounts end at one moment and looks until what that brings is done: their next grants
// are issued, and the old ones have lapsed. It is asked at the same rate before, at midnight, meanwhile and after; row
// is the renewing itself, the other phases are rows of their own.
func renewals(ctx context.Context, b *bench, row *result.Row) error {
	length := 3 * b.config.length
	phase := func(name string, o load.Options) error {
		r := *row
		r.Phase, r.Series, r.Extra = name, nil, map[string]float64{result.ExtraActive: row.Extra[result.ExtraActive]}
		r.Requests, r.Errors, r.Seconds, r.Latency = 0, nil, 0, result.Latency{}
		if err := b.ask(ctx, &r, o); err != nil {
			return err
		}
		b.run.Rows = append(b.run.Rows, r)
		return nil
	}
	row.Phase, row.Clients, row.Rate = result.PhaseRenewing, renewalClients, renewalRate
	row.Extra[result.ExtraActive] = float64(min(renewalActive, b.stage.Accounts))
	if err := phase(result.PhaseBefore, load.Options{Warm: length, Length: length}); err != nil {
		return err
	}
	if err := b.sizes(ctx, row, result.ExtraAccountSize, result.ExtraResident); err != nil {
		return err
	}
	if err := b.stage.Approach(ctx, length+midnightLead); err != nil {
		return err
	}
	looking := b.lookOn(ctx)
	defer looking.end() //nolint:errcheck // what it says is asked for below, unless something failed before
	warm := max(0, b.stage.ToMidnight()-b.config.length)
	if err := phase(result.PhaseMidnight, load.Options{Warm: warm, Length: length}); err != nil {
		return err
	}
	if err := b.askUntil(ctx, row, length, looking.done); err != nil {
		return err
	}
	if err := looking.end(); err != nil {
		return err
	}
	looking.fill(row)
	if err := phase(result.PhaseAfter, load.Options{Length: length}); err != nil {
		return err
	}
	ledger, err := b.stage.LedgerPerAccount(ctx)
	row.Extra[result.ExtraLedgerRenewed] = ledger
	if err := errors.Join(err, b.drained(ctx), b.sizes(ctx, row, result.ExtraAccountRenewed, "")); err != nil {
		return err
	}
	return b.stage.CheckRenewed(ctx)
}

// ask asks once, at the suite's rate, and adds what was measured to row.
func (b *bench) ask(ctx context.Context, row *result.Row, o load.Options) error {
	target, err := b.stage.Target(ctx, stage.Metered)
	if err != nil {
		return err
	}
	o.Addrs, o.Path, o.Clients, o.Rate = target.Addrs, target.Priced, renewalClients, renewalRate
	o.Accounts, o.Active, o.Seed = b.stage.Accounts, min(renewalActive, b.stage.Accounts), uint64(len(b.run.Rows))
	none := func(int) error { return nil }
	r, err := askWith(ctx, b.hall.Self(), o, none, none)
	if err != nil {
		return err
	}
	if row.Requests > 0 {
		if r.Latency, err = merged(row.Latency, r.Latency); err != nil {
			return err
		}
	}
	row.Latency, row.Requests, row.Seconds = r.Latency, row.Requests+r.Requests, row.Seconds+r.Seconds
	for what, n := range r.Errors {
		if row.Errors == nil {
			row.Errors = map[string]int64{}
		}
		row.Errors[what] += n
	}
	if len(r.Errors) > 0 {
		b.note(fmt.Sprintf("%s, %s: %d of %d requests failed: %v", row.Suite, row.Phase, row.Failed(), row.Requests, row.Errors))
	}
	return nil
}

// askUntil asks on and on, piece by piece, until done; at least once. The moments between pieces are not measured.
func (b *bench) askUntil(ctx context.Context, row *result.Row, length time.Duration, done <-chan struct{}) error {
	for range renewalSteps {
		if err := b.ask(ctx, row, load.Options{Length: length}); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return fmt.Errorf("renewing is not over after %d pieces of %s", renewalSteps, length)
}

// merged is the latencies of two pieces as if they were one.
func merged(a, b result.Latency) (out result.Latency, err error) {
	all, err := hdrhistogram.Decode([]byte(a.Hist))
	if err != nil {
		return out, fmt.Errorf("latencies of one piece: %w", err)
	}
	more, err := hdrhistogram.Decode([]byte(b.Hist))
	if err != nil {
		return out, fmt.Errorf("latencies of the next piece: %w", err)
	}
	all.Merge(more)
	return load.Latency(all)
}

// sizes reads the memory of Redis by account and of the gateway.
func (b *bench) sizes(ctx context.Context, row *result.Row, account, resident string) error {
	perAccount, err := b.stage.MemoryPerAccount(ctx)
	now, peak, residentErr := b.stage.Resident()
	row.Extra[account] = perAccount
	if resident != "" {
		row.Extra[resident] = now
	}
	row.Extra[result.ExtraResidentPeak] = peak
	return errors.Join(err, residentErr)
}

// looker notes when the steps of a renewal were done.
type looker struct {
	bench   *bench
	cancel  context.CancelFunc
	done    chan struct{} // closed when there is nothing left to look for
	seconds map[string]float64
	lapses  int64          // records that Postgres has to have for all lapses to be there; 0: not all are made
	series  []result.Point // accounts that are issued
	err     error
}

func (b *bench) lookOn(ctx context.Context) *looker {
	l := &looker{bench: b, done: make(chan struct{}), seconds: map[string]float64{}}
	ctx, l.cancel = context.WithTimeout(ctx, renewalMax)
	go func() {
		defer close(l.done)
		l.err = l.run(ctx)
	}()
	return l
}

func (l *looker) run(ctx context.Context) error {
	for {
		r, err := l.bench.stage.Renewed(ctx)
		if err == nil {
			err = l.note(ctx, r)
		}
		if err != nil || len(l.seconds) == renewalEnds {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("renewing is at %+v of %d accounts: %w", r, l.bench.stage.Accounts, ctx.Err())
		case <-time.After(renewalLook):
		}
	}
}

// note notes which steps are done.
func (l *looker) note(ctx context.Context, r stage.Renewed) (err error) {
	after, all := -l.bench.stage.ToMidnight().Seconds(), int64(l.bench.stage.Accounts)
	if after < 0 {
		return nil
	}
	l.series = append(l.series, result.Point{Second: after, Value: float64(r.Issued)})
	if l.lapses == 0 && r.Lapsed >= all {
		l.lapses = r.Made
	}
	applied := false
	if r.Issued >= all {
		if applied, err = l.bench.stage.Applied(ctx); err != nil {
			return err
		}
	}
	for name, reached := range map[string]bool{
		result.ExtraIssued: r.Issued >= all, result.ExtraApplied: applied,
		result.ExtraLapsed: r.Lapsed >= all, result.ExtraBooked: l.lapses > 0 && r.Flushed >= l.lapses,
	} {
		if _, before := l.seconds[name]; reached && !before {
			l.seconds[name] = after
		}
	}
	return nil
}

// end ends looking, if it is not over, and returns why it was not. Twice is fine.
func (l *looker) end() error {
	l.cancel()
	<-l.done
	return l.err
}

func (l *looker) fill(row *result.Row) {
	maps.Copy(row.Extra, l.seconds)
	row.Series = l.series
}
