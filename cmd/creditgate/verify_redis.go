package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"creditgate/meter"
	"creditgate/persist"
)

// Bounds of a verification that traffic goes on under.
const (
	followMax   = 10 * time.Second // for a flusher to bring Postgres up to the head that Redis had
	followPause = 50 * time.Millisecond
	holdsTries  = 50 // readings of an account that changes while its reservations are counted
)

// redisVerifier finds what package persist cannot see: whether the ledgers are one, and what Redis says of itself.
type redisVerifier struct {
	store    *persist.Store
	redis    *meter.Inspector
	drifts   []persist.Drift
	restless []string // accounts that changed too fast to count what they hold
}

func (v *redisVerifier) add(d persist.Drift) {
	d.Kind = persist.DriftRedis
	v.drifts = append(v.drifts, d)
}

// ledger compares the ends of one partition's ledger, and returns once Postgres has what Redis had when it was asked.
func (v *redisVerifier) ledger(ctx context.Context, partition uint16) error {
	where := fmt.Sprintf("partition %d", partition)
	head, err := v.redis.Partition(ctx, partition)
	if err != nil {
		return err
	}
	if !head.Exists || head.State != "open" {
		return errors.New("it is not open in Redis; a running gateway opens it, and /readyz says what keeps it from that")
	}
	if head.Torn {
		v.add(persist.Drift{Where: where, What: "a write failed half-way in Redis", Want: "whole", Have: "torn"})
	}
	at, err := v.follow(ctx, partition, head)
	if err != nil {
		return err
	}
	err = v.redis.Continues(ctx, partition, at)
	if errors.Is(err, meter.ErrFenced) {
		v.add(persist.Drift{Where: where, What: err.Error(), Want: at.String(), Have: fmt.Sprintf("head %d", head.Pseq)})
		return nil
	}
	return err
}

// follow waits until the flush cursor has reached the head, unless Postgres lacks what no flusher can bring.
func (v *redisVerifier) follow(ctx context.Context, partition uint16, head meter.PartitionView) (meter.Cursor, error) {
	ctx, cancel := context.WithTimeout(ctx, followMax)
	defer cancel()
	for {
		at, err := v.store.Cursor(ctx, partition)
		if err != nil || at.Pseq >= head.Pseq || at.Pseq < head.Base {
			return at, err
		}
		select {
		case <-ctx.Done():
			return at, fmt.Errorf("the ledger in Postgres is %d records behind Redis and does not follow: is a gateway running?",
				head.Pseq-at.Pseq)
		case <-time.After(followPause):
		}
	}
}

// account is what Redis has of an account. One that it has not loaded is what Postgres would load, by definition.
func (v *redisVerifier) account(ctx context.Context, name string) (meter.Decision, error) {
	accounts, err := v.redis.Accounts(ctx, name)
	if err != nil {
		return meter.Decision{}, err
	}
	account, loaded := accounts[name]
	if !loaded {
		account, _, err = v.store.Account(ctx, name)
	}
	return meter.Decision{Code: meter.CodeOK, Account: account}, err
}

// held is what open reservations hold of one account.
type held struct {
	reservations uint32
	grants       map[meter.ID]meter.Credits
}

func (h *held) add(r meter.Reservation) {
	h.reservations++
	if h.grants == nil {
		h.grants = map[meter.ID]meter.Credits{}
	}
	for _, d := range r.Draws {
		h.grants[d.Grant] += d.Amount
	}
}

// differs says how an account's grants disagree with h, which is nil if nothing is held; empty if they do not.
func (h *held) differs(a meter.Account) (want, have string) {
	if h == nil {
		h = &held{}
	}
	if a.Holds != h.reservations {
		return fmt.Sprintf("%d open reservations", h.reservations), strconv.Itoa(int(a.Holds))
	}
	listed := meter.Credits(0)
	for _, g := range a.Grants {
		if g.Held != h.grants[g.ID] {
			return fmt.Sprintf("%s of grant %s", h.grants[g.ID], g.ID), g.Held.String()
		}
		listed += g.Held
	}
	all := meter.Credits(0)
	for _, c := range h.grants {
		all += c
	}
	if all != listed {
		return all.String(), listed.String()
	}
	return "", ""
}

// openOf sums the open reservations of a partition by account; only says whose, all if it is empty.
func (v *redisVerifier) openOf(ctx context.Context, partition uint16, only string) (map[string]*held, error) {
	sums, seen := map[string]*held{}, map[meter.ID]bool{}
	err := v.redis.OpenReservations(ctx, partition, func(r meter.Reservation) error {
		if !seen[r.ID.ID] && (only == "" || r.Account == only) {
			seen[r.ID.ID] = true
			if sums[r.Account] == nil {
				sums[r.Account] = &held{}
			}
			sums[r.Account].add(r)
		}
		return nil
	})
	return sums, err
}

// holds compares what accounts in Redis hold with the reservations in Redis that hold it, and finds accounts that
// Postgres does not know.
func (v *redisVerifier) holds(ctx context.Context) error {
	open := map[string]*held{}
	for p := range v.redis.Layout().Partitions {
		sums, err := v.openOf(ctx, p, "")
		if err != nil {
			return err
		}
		maps.Copy(open, sums)
	}
	seen := map[string]bool{}
	err := v.redis.AccountNames(ctx, func(names []string) error {
		accounts, err := v.redis.Accounts(ctx, names...)
		if err != nil {
			return err
		}
		for name, account := range accounts {
			if seen[name] {
				continue
			}
			seen[name] = true
			if err := v.holdsOf(ctx, name, account, open[name]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, h := range open {
		if !seen[name] {
			if err := v.holdsOf(ctx, name, meter.Account{}, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdsOf judges one account. Account and reservations cannot be read at one moment, so where they differ both are
// read until the account did not change meanwhile.
func (v *redisVerifier) holdsOf(ctx context.Context, name string, account meter.Account, open *held) error {
	if _, err := v.store.AccountState(ctx, name); errors.Is(err, meter.ErrNoAccount) {
		v.add(persist.Drift{
			Account: name, Where: "account", What: "is in Redis only", Want: "none",
			Have: "seq " + strconv.FormatUint(account.Seq, 10),
		})
	} else if err != nil {
		return err
	}
	if want, _ := open.differs(account); want == "" {
		return nil
	}
	partition := v.redis.Layout().PartitionOf(name)
	for range holdsTries {
		before, err := v.redis.Accounts(ctx, name)
		if err != nil {
			return err
		}
		sums, err := v.openOf(ctx, partition, name)
		if err != nil {
			return err
		}
		after, err := v.redis.Accounts(ctx, name)
		if err != nil {
			return err
		}
		if !bytes.Equal(meter.AppendAccount(nil, before[name]), meter.AppendAccount(nil, after[name])) {
			continue
		}
		if want, have := sums[name].differs(after[name]); want != "" {
			v.add(persist.Drift{Account: name, Where: "account", What: "held in Redis", Want: want, Have: have})
		}
		return nil
	}
	v.restless = append(v.restless, name)
	return nil
}
