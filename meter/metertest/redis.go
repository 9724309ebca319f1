package metertest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"creditgate/meter"
)

// Read decodes everything that Redis holds of a partition. It is no snapshot: the partition must be at rest. What it
// cannot decode, or what no script should have left, is an error beside the rest.
func Read(ctx context.Context, client redis.UniversalClient, layout meter.Layout, partition uint16) (State, error) {
	return ReadAfter(ctx, client, layout, partition, meter.Position{})
}

// ReadAfter is Read without the ledger records up to a position, which the caller has.
func ReadAfter(
	ctx context.Context, client redis.UniversalClient, layout meter.Layout, partition uint16, seen meter.Position,
) (State, error) {
	r := redisReader{client: client, keys: layout.Keys(partition), s: NewState(layout, partition)}
	r.tag = strings.TrimSuffix(r.keys.Meta(), "meta")
	r.read(ctx, seen)
	return r.s, errors.Join(r.errs...)
}

type redisReader struct {
	client redis.UniversalClient
	keys   meter.Keys
	tag    string
	s      State
	downMs int64
	errs   []error
}

func (r *redisReader) expectf(ok bool, format string, args ...any) {
	if !ok {
		r.errs = append(r.errs, fmt.Errorf(format, args...))
	}
}

func (r *redisReader) read(ctx context.Context, seen meter.Position) {
	pipe := r.client.Pipeline()
	meta, open := pipe.Get(ctx, r.keys.Meta()), pipe.HGetAll(ctx, r.keys.Open())
	ledger := pipe.XRange(ctx, r.keys.Ledger(), "("+seen.String(), "+")
	slots, names := pipe.HGetAll(ctx, r.keys.Slots()), pipe.Keys(ctx, r.tag+"*")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		r.errs = append(r.errs, err)
		return
	}
	r.meta(meta.Val())
	for id, packed := range open.Val() {
		res := r.reservation(id, packed)
		res.DeadlineMs += r.downMs
		r.s.Open[res.ID.ID] = res
		r.expectf(res.State == meter.Held, "open: %s is %s", res.ID, res.State)
	}
	r.ledger(ledger.Val())
	r.rest(ctx, names.Val(), slots.Val())
}

func (r *redisReader) meta(packed string) {
	if packed == "" {
		return
	}
	m, err := meter.UnpackMeta([]byte(packed))
	r.expectf(err == nil, "meta: %w", err)
	r.s.Epoch, r.s.Pseq, r.s.FlushedPseq = m.Epoch, m.Pseq, m.Flushed.Pseq
	r.s.OutcomesFromMs, r.s.NowMs, r.downMs = m.OutcomesFromMs, m.LastMs, m.DownMs
	r.s.NotedSlot, r.s.NotedMs = m.NotedSlot, m.NotedMs
	r.expectf(!m.Torn, "meta: torn")
}

// EditMeta changes a partition's meta as no script would, for tests of what follows.
func EditMeta(ctx context.Context, client redis.UniversalClient, keys meter.Keys, edit func(*meter.Meta)) error {
	b, err := client.Get(ctx, keys.Meta()).Bytes()
	if err != nil {
		return err
	}
	m, err := meter.UnpackMeta(b)
	if err != nil {
		return err
	}
	edit(&m)
	return client.Set(ctx, keys.Meta(), meter.AppendMeta(nil, m), 0).Err()
}

func (r *redisReader) ledger(messages []redis.XMessage) {
	for _, m := range messages {
		rec, err := meter.UnpackRecord([]byte(fmt.Sprint(m.Values["e"])))
		r.expectf(err == nil, "ledger %s: %w", m.ID, err)
		_, err = fmt.Sscanf(m.ID, "%d-%d", &rec.Epoch, &rec.Pseq)
		r.expectf(err == nil, "ledger %s: %w", m.ID, err)
		rec.Layout, rec.Partition, rec.Body = r.s.Layout.Number, r.s.Partition, nil
		r.s.Ledger = append(r.s.Ledger, rec)
	}
}

// rest reads the keys whose names are data: accounts, outcome slots, key days.
func (r *redisReader) rest(ctx context.Context, names []string, slots map[string]string) {
	for slot, last := range slots {
		ms, err := strconv.ParseInt(last, 10, 64)
		r.expectf(err == nil, "slots: %s has %q", slot, last)
		r.s.Slots[slot] = ms
	}
	pipe := r.client.Pipeline()
	accounts, hashes := map[string]*redis.StringCmd{}, map[string]*redis.MapStringStringCmd{}
	for _, name := range names {
		kind, _, _ := strings.Cut(strings.TrimPrefix(name, r.tag), ":")
		switch kind {
		case "a":
			accounts[strings.TrimPrefix(name, r.tag+"a:")] = pipe.Get(ctx, name)
		case "done", "keys":
			hashes[name] = pipe.HGetAll(ctx, name)
			r.expectf(slots[name] != "", "%s is not in slots: it would never be dropped", name)
		case "meta", "ledger", "open", "slots", "sweeper", "r":
		default:
			r.expectf(false, "unknown key %s", name)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for name, cmd := range accounts {
		a, err := meter.UnpackAccount([]byte(cmd.Val()))
		r.expectf(err == nil, "account %s: %w", name, err)
		if s := a.Sum; s.FromMs <= r.s.NowMs && r.s.NowMs < s.UntilMs {
			r.expectf(s.Available == a.Available(r.s.NowMs), "account %s: the kept sum is %s, the grants add up to %s", name,
				s.Available, a.Available(r.s.NowMs))
		}
		r.s.Accounts[name] = a
	}
	for name, cmd := range hashes {
		for field, value := range cmd.Val() {
			r.slot(strings.HasPrefix(name, r.tag+"done:"), name, field, value)
		}
	}
}

func (r *redisReader) slot(done bool, name, field, value string) {
	if done {
		res := r.reservation(field, value)
		r.expectf(name == r.keys.Done(res.ID.ID.CreatedMs()), "%s is in %s", res.ID, name)
		r.s.Done[res.ID.ID] = res
		return
	}
	r.expectf(len(field) == 16 && len(value) >= 32, "%s: malformed record of %x", name, field)
	if len(field) != 16 || len(value) < 32 {
		return
	}
	rec := KeyRecord{Reservation: idOf(value[16:32]), Fingerprint: idOf(value[:16])}
	if len(value) > 32 {
		rec.Outcome = r.reservation(value[16:32], value[32:])
	}
	slot := keySlot(idOf(field), rec.Reservation)
	r.expectf(name == r.keys.KeyDay(rec.Reservation.CreatedMs()), "the key record of %s is in %s", rec.Reservation, name)
	r.s.Keys[slot] = rec
}

func (r *redisReader) reservation(id, packed string) meter.Reservation {
	res, err := meter.UnpackReservation([]byte(packed))
	r.expectf(err == nil && len(id) == 16, "reservation %x: %w", id, err)
	res.ID = meter.ReservationID{Layout: r.s.Layout.Number, Partition: r.s.Partition, ID: idOf(id)}
	return res
}

func idOf(raw string) (id meter.ID) {
	copy(id[:], raw)
	return id
}
