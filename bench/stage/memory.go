package stage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"creditgate/bench/cast"
	"creditgate/bench/measure"
	"creditgate/meter"
	"creditgate/meter/redisd"
)

// holdCallers is how many reserve at a time while holds are made.
const holdCallers = 256

// holdLease outlasts the measurement.
const holdLease = 10 * time.Minute

// policyVersion is as long as a real one.
const policyVersion = "0123456789ab"

// Memory is what Redis uses.
type Memory struct {
	PerAccount  float64 // bytes, idle
	PerHold     float64 // bytes, what it adds to its account included
	LoadSeconds float64
}

// Memory fills a Redis of its own and looks at what it uses before and after: with idle accounts, then with open
// holds, spread over the accounts. Postgres has no part in it.
func (h *Hall) Memory(ctx context.Context, n, grants, partitions, holds int) (m Memory, err error) {
	server, err := redisd.Start(ctx, redisd.Options{Dir: filepath.Join(h.dir, "memory-redis"), Log: zerolog.Nop()})
	if err != nil {
		return m, err
	}
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close(), server.Stop()) }()
	used := func() (float64, error) {
		r, err := measure.ReadRedis(ctx, []*redis.Client{client})
		return measure.SumRedis(r).Memory, err
	}
	empty, err := used()
	if err != nil {
		return m, err
	}
	layout := meter.Layout{Number: layoutNumber, Partitions: uint16(partitions)}
	a := accounts{n: n, grants: grants, made: time.Now().Add(-sinceMade).Truncate(time.Millisecond).UTC()}
	began := time.Now()
	engine, err := startEngine(ctx, server.URL(), book{epochs: firstEpochs{}, accounts: a, layout: layout}, nil)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	m.LoadSeconds = time.Since(began).Seconds()
	idle, err := used()
	if err != nil {
		return m, err
	}
	if err := hold(ctx, engine.Engine, n, holds); err != nil {
		return m, err
	}
	held, err := used()
	m.PerAccount, m.PerHold = (idle-empty)/float64(n), (held-idle)/float64(holds)
	return m, err
}

// firstEpochs are those of a Postgres that has never seen a gateway.
type firstEpochs struct{}

func (firstEpochs) Cursor(context.Context, uint16) (meter.Cursor, error) { return meter.Cursor{}, nil }

func (firstEpochs) ClaimEpoch(_ context.Context, _ uint16, atLeast uint64) (uint64, error) {
	return atLeast + 1, nil
}

// hold makes open reservations like those of a gateway, on accounts evenly spread.
func hold(ctx context.Context, engine *meter.Engine, n, holds int) error {
	callers, ctx := errgroup.WithContext(ctx)
	for caller := range holdCallers {
		callers.Go(func() error {
			for i := caller; i < holds; i += holdCallers {
				account := cast.Account(i % n * max(1, n/holds) % n)
				d, err := engine.Reserve(ctx, meter.Reserve{
					ID: engine.NewReservationID(account), Account: account, Amount: meter.Credit, Lease: holdLease,
					Note: meter.Note{
						Operation: "priced", PolicyVersion: policyVersion, KeyID: meter.NewID(time.Now()).String(),
					},
				})
				if err != nil {
					return fmt.Errorf("make hold %d: %w", i, err)
				}
				if d.Code != meter.CodeOK {
					return fmt.Errorf("make hold %d of %s: %s", i, account, d.Code)
				}
			}
			return nil
		})
	}
	return callers.Wait()
}
