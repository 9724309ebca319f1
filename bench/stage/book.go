package stage

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"creditgate/bench/cast"
	"creditgate/meter"
)

// creditsEach is what each grant is worth: more than any run can spend of one account.
const creditsEach = 1_000_000_000 * meter.Credit

// lastingFor is how long grants last that expire.
const lastingFor = 90 * 24 * time.Hour

// accounts are those of a stage: what they have follows from their number, so Postgres and Redis are filled alike
// without asking each other.
type accounts struct {
	n, grants int
	made      time.Time // of everything
	renewal   *renewal  // nil: nobody has a subscription
}

// lot is a grant as every account has it.
type lot struct {
	bucket             string
	rank               uint8
	credits            meter.Credits
	effective, expires time.Time // expires zero: never; it is purchased
}

// lot is the grant of a number: of the subscription where there is one.
func (a accounts) lot(grant int) lot {
	if a.renewal != nil {
		d := a.renewal.given[grant]
		return lot{d.Bucket, d.Rank, d.Credits, d.EffectiveAt, d.ExpiresAt}
	}
	rank := a.bucketOf(grant)
	return lot{buckets()[rank], uint8(rank), creditsEach, a.made, a.expiry(grant)}
}

// buckets are those of cast.Policy, in drain order.
func buckets() []string { return []string{"promo", "monthly", "purchased"} }

// bucketOf spreads the grants of an account over the buckets, the last ones being purchased. It keeps drain order.
func (a accounts) bucketOf(grant int) int {
	n := len(buckets())
	if a.grants < n {
		return n - a.grants + grant
	}
	return min(grant*n/a.grants, n-1)
}

// expiry is zero for purchased credit, which lasts.
func (a accounts) expiry(grant int) time.Time {
	if a.bucketOf(grant) == len(buckets())-1 {
		return time.Time{}
	}
	return a.made.Add(lastingFor + time.Duration(grant)*time.Hour)
}

// kinds of ids, so that none is given twice.
const (
	idGrant = 1
	idKey   = 2
)

// id is a UUIDv7 that follows from what it names.
func (a accounts) id(kind, account, part int) meter.ID {
	var id meter.ID
	binary.BigEndian.PutUint64(id[0:], uint64(a.made.UnixMilli())<<16)
	id[6], id[7], id[8] = 0x70, byte(kind), 0x80
	binary.BigEndian.PutUint32(id[10:], uint32(account))
	binary.BigEndian.PutUint16(id[14:], uint16(part))
	return id
}

// state is account i as it is after its grants were booked.
func (a accounts) state(i int) meter.Account {
	state := meter.Account{Seq: uint64(a.grants), Grants: make([]meter.Grant, a.grants)}
	for g := range a.grants {
		l, expires := a.lot(g), meter.Never
		if !l.expires.IsZero() {
			expires = l.expires.UnixMilli()
		}
		state.Grants[g] = meter.Grant{
			ID: a.id(idGrant, i, g), Bucket: l.bucket, Rank: l.rank, Paid: expires == meter.Never, Available: l.credits,
			EffectiveMs: l.effective.UnixMilli(), ExpiresMs: expires, CreatedMs: a.made.UnixMilli(),
		}
	}
	return state
}

// epochs is where a partition's cursor and epoch are kept.
type epochs interface {
	Cursor(ctx context.Context, partition uint16) (meter.Cursor, error)
	ClaimEpoch(ctx context.Context, partition uint16, atLeast uint64) (uint64, error)
}

// book tells an engine about the accounts, so that it fills an empty Redis by its own verbs, without asking Postgres
// for each account. Cursor and epoch are Postgres' own, so that gateways go on from there.
type book struct {
	epochs
	accounts

	layout meter.Layout
}

// namesMax is how many accounts are named at a time.
const namesMax = 1000

func (b book) Account(_ context.Context, name string) (meter.Account, meter.Cursor, error) {
	i, ok := cast.NumberOf(name, b.n)
	if !ok {
		return meter.Account{}, meter.Cursor{}, fmt.Errorf("%w: %q", meter.ErrNoAccount, name)
	}
	return b.state(i), meter.Cursor{}, nil
}

func (b book) Outcome(_ context.Context, id meter.ReservationID) (meter.Reservation, meter.Cursor, bool, error) {
	return meter.Reservation{}, meter.Cursor{}, false, fmt.Errorf("outcome of %s: nothing was reserved yet", id)
}

// DueLapses are none: a stage is filled before anything ends.
func (b book) DueLapses(context.Context, meter.Lapse, time.Time, int) ([]meter.Lapse, error) {
	return nil, nil
}

func (b book) Accounts(_ context.Context, partition uint16, fn func(names []string) error) error {
	names := make([]string, 0, namesMax)
	for i := range b.n {
		name := cast.Account(i)
		if b.layout.PartitionOf(name) != partition {
			continue
		}
		if names = append(names, name); len(names) < namesMax {
			continue
		}
		if err := fn(names); err != nil {
			return err
		}
		names = names[:0]
	}
	if len(names) == 0 {
		return nil
	}
	return fn(names)
}

func (b book) KeyedOutcomes(context.Context, uint16, int64, func([]meter.Reservation) error) error {
	return nil
}
