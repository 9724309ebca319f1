package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"creditgate/meter"
	"creditgate/persist"
)

// partitionInspection shows a partition of Redis, beside Postgres if that is set.
type partitionInspection struct{ postgresURL string }

func (v *partitionInspection) show(ctx context.Context, i *meter.Inspector, w io.Writer, text string) error {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil || number >= uint64(i.Layout().Partitions) {
		return fmt.Errorf("partition %q: layout %d has partitions 0 to %d", text, i.Layout().Number, i.Layout().Partitions-1)
	}
	partition := uint16(number)
	p, err := i.Partition(ctx, partition)
	var closed *meter.ClosedError
	if err != nil && !errors.As(err, &closed) {
		return err
	}
	if err == nil && !p.Exists && p.Records+p.Open+p.Slots == 0 {
		return fmt.Errorf("partition %d is not in Redis: no gateway has opened it under layout %d", number, i.Layout().Number)
	}
	rows(w, "partition", p.Partition, "key", i.Layout().Keys(partition).Meta())
	if err == nil {
		nowMs, err := i.NowMs(ctx, partition)
		if err != nil {
			return err
		}
		showPartition(w, p, nowMs)
	}
	at, asked, err := v.beside(ctx, i, w, p, closed != nil)
	if err != nil {
		return err
	}
	if closed == nil {
		cursor := &at
		if !asked {
			cursor = nil
		}
		if err := i.Closed(ctx, partition, cursor); err != nil && !errors.As(err, &closed) {
			return err
		}
	}
	if closed != nil {
		rows(w, "closed", closed.Error(), "to do", closed.Do, "cost", orDash(closed.Cost))
	}
	return nil
}

func showPartition(w io.Writer, p meter.PartitionView, nowMs int64) {
	fence := "Redis has not restarted since it was opened"
	switch {
	case !p.Exists:
		fence = "-"
	case !p.SameIncarnation:
		fence = "Redis restarted or failed over: closed until a gateway opens it again"
	}
	torn := "no"
	if p.Torn {
		torn = "yes: a write failed half-way"
	}
	rows(w,
		"state", orDash(p.State),
		"epoch", p.Epoch,
		"fence", fence,
		"torn", torn,
		"head", p.Pseq,
		"flushed", fmt.Sprintf("%d (%d records to go, as Redis was told)", p.FlushedPseq, p.Pseq-min(p.Pseq, p.FlushedPseq)),
		"newest write", when(p.LastMs, nowMs),
		"rebuilt at", orNever(p.Base),
		"ledger", fmt.Sprintf("%d records, %s to %s", p.Records, orDash(p.First), orDash(p.Last)),
		"open reservations", p.Open,
		"outcome slots", p.Slots,
	)
}

// beside shows what Postgres has, and what Redis has alone: that is lost when the partition is emptied. The records are
// not read if they are of another version.
func (v *partitionInspection) beside(
	ctx context.Context, i *meter.Inspector, w io.Writer, p meter.PartitionView, unreadable bool,
) (at meter.Cursor, asked bool, err error) {
	if v.postgresURL == "" {
		rows(w, "in Postgres", "not asked: set postgres_url")
		return at, false, nil
	}
	store, err := persist.Open(ctx, v.postgresURL, i.Layout(), nil)
	if err != nil {
		return at, false, err
	}
	defer store.Close()
	at, err = store.Cursor(ctx, p.Partition)
	if errors.Is(err, persist.ErrUnavailable) {
		rows(w, "in Postgres", "it does not answer: "+err.Error())
		return at, false, nil
	}
	if err != nil {
		return at, false, err
	}
	rows(w, "in Postgres", fmt.Sprintf("records up to %s", at.Position))
	if unreadable {
		rows(w, "only in Redis", "its records cannot be read by this version")
		return at, true, nil
	}
	records, charged, err := onlyInRedis(ctx, i, store, p.Partition)
	if err != nil {
		return at, false, err
	}
	rows(w, "only in Redis", fmt.Sprintf("%d records, which charge %s credits", records, charged))
	return at, true, nil
}

// onlyInRedis counts the ledger records in Redis that Postgres does not have, and what they charge. A grant among them is
// not counted: it is pending in Postgres, and is applied again.
func onlyInRedis(
	ctx context.Context, i *meter.Inspector, store *persist.Store, partition uint16,
) (records int, charged meter.Credits, err error) {
	const page = 1000
	var after meter.Position
	for {
		list, err := i.Records(ctx, partition, after, page)
		if err != nil || len(list) == 0 {
			return records, charged, err
		}
		after = list[len(list)-1].Position
		bodies, err := store.Bodies(ctx, partition, list[0].Pseq, after.Pseq)
		if err != nil {
			return 0, 0, err
		}
		for _, rec := range list {
			if bytes.Equal(bodies[rec.Pseq], rec.Body) {
				continue
			}
			records++
			for _, e := range rec.Entries {
				for _, l := range e.Lines {
					charged += l.Spent
				}
			}
		}
	}
}

func orNever(pseq uint64) string {
	if pseq == 0 {
		return "-"
	}
	return strconv.FormatUint(pseq, 10)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
