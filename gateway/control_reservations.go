package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// Reservations by hand: for work that does not pass the data plane. They are the same reservations, with a lease
// that their maker chooses.

type reserveBody struct {
	Account      string         `json:"account"`
	Credits      *meter.Credits `json:"credits"`
	Operation    string         `json:"operation"`
	LeaseSeconds *int64         `json:"lease_seconds"`
}

func (b *reserveBody) check() *problem {
	switch {
	case !meter.ValidName(b.Account):
		return badName("account", b.Account)
	case b.Operation != "" && !meter.ValidName(b.Operation):
		return badName("operation", b.Operation)
	}
	return positive(b.Credits)
}

// postReservation holds credit. With an Idempotency-Key a repeat gets the reservation of the first call.
func (g *Gateway) postReservation(c *call) (int, any, *problem) {
	var b reserveBody
	p := c.decode(&b)
	if p == nil {
		p = b.check()
	}
	lease := g.set.lease()
	if p == nil && b.LeaseSeconds != nil {
		lease, p = leaseOf(*b.LeaseSeconds)
	}
	if p != nil {
		return 0, nil, p
	}
	r := meter.Reserve{
		ID: g.meter.NewReservationID(b.Account), Account: b.Account, Amount: *b.Credits, Lease: lease,
		MaxInFlight: g.set.MaxInFlight, Note: meter.Note{Operation: b.Operation, Actor: c.actor},
	}
	if c.ref != "" {
		key, content := sha256.Sum256([]byte(b.Account+"\x00control\x00"+c.ref)),
			sha256.Sum256([]byte(b.Account+"\x00"+b.Credits.String()+"\x00"+b.Operation+"\x00"+lease.String()))
		r.Note.Key = &meter.IdempotencyKey{Hash: [16]byte(key[:16]), Fingerprint: [16]byte(content[:16])}
	}
	ctx, cancel := g.within(g.set.SettleBudget)
	defer cancel()
	d, err := g.meter.Reserve(ctx, r)
	if errors.Is(err, meter.ErrNoAccount) {
		return 0, nil, &problem{code: codeNotFound, detail: "there is no account " + b.Account}
	}
	if err != nil {
		g.outages.Log(g.log, err).Str("request_id", c.id).Str("account", b.Account).Msg("cannot reserve for the control plane")
		return 0, nil, meteringUnavailable("credits cannot be reserved at the moment")
	}
	return g.reserved(d, r)
}

func (g *Gateway) reserved(d meter.Decision, r meter.Reserve) (int, any, *problem) {
	switch d.Code {
	case meter.CodeOK:
		return fasthttp.StatusCreated, newReservationView(d.Reservation, g.bucketsFor(d.Reservation)), nil
	case meter.CodeKeyInProgress, meter.CodeKeyReplay: // the first call's, as it stands now
		first, p := g.readReservation(d.Reservation.ID)
		return fasthttp.StatusOK, newReservationView(first, g.bucketsFor(first)), p
	case meter.CodeKeyMismatch:
		return 0, nil, &problem{
			code: codeConflict, param: "Idempotency-Key",
			detail: "this Idempotency-Key was used for another reservation",
		}
	case meter.CodeInsufficient:
		w := g.wallet(g.identityOf(r.Account), d)
		return 0, nil, insufficient(r.Amount, &w)
	case meter.CodeSuspended:
		return 0, nil, &problem{code: codeSuspended, detail: "account " + r.Account + " is suspended"}
	case meter.CodeInFlight:
		return 0, nil, &problem{
			code: codeTooManyInFlight, retryAfter: retrySoonSeconds,
			detail: "the account has too many open reservations",
		}
	default:
		return 0, nil, meteringUnavailable("credits cannot be reserved at the moment")
	}
}

func leaseOf(s int64) (time.Duration, *problem) {
	if s < int64(meter.LeaseMin/time.Second) || s > int64(meter.LeaseMax/time.Second) {
		return 0, &problem{code: codeInvalid, param: "lease_seconds", detail: "lease_seconds must lie between " +
			strconv.Itoa(int(meter.LeaseMin/time.Second)) + " and " + strconv.Itoa(int(meter.LeaseMax/time.Second))}
	}
	return time.Duration(s) * time.Second, nil
}

func notAReservation(text string) string {
	return strconv.Quote(shorten(text)) + " is not the id of a reservation, which looks like " +
		"1-00-01a204b5-3456-7300-b1bf-0e6873ebea51"
}

// named reads the reservation in the path.
func (g *Gateway) named(c *call) (meter.Reservation, *problem) {
	id, err := meter.ParseReservationID(c.names[0])
	if err != nil {
		return meter.Reservation{}, &problem{code: codeNotFound, detail: notAReservation(c.names[0])}
	}
	return g.readReservation(id)
}

func (g *Gateway) getReservation(c *call) (int, any, *problem) {
	r, p := g.named(c)
	if p != nil {
		return 0, nil, p
	}
	return fasthttp.StatusOK, newReservationView(r, g.bucketsFor(r)), nil
}

// postCommit charges all of a reservation, or the credits named, and gives back the rest.
func (g *Gateway) postCommit(c *call) (int, any, *problem) {
	var b struct {
		Credits *meter.Credits `json:"credits"`
	}
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	r, p := g.named(c)
	if p != nil {
		return 0, nil, p
	}
	amount := r.Amount
	if b.Credits != nil {
		if amount, p = *b.Credits, positive(b.Credits); p != nil {
			return 0, nil, p
		}
		if amount > r.Amount {
			return 0, nil, &problem{
				code: codeExceedsHold, param: "credits", outcome: &r,
				detail: amount.String() + " credits are more than the " + r.Amount.String() + " that are reserved; commit at " +
					"most these, and reserve anew for the rest",
			}
		}
	}
	return g.settleByHand(r, "commit", func(ctx context.Context) (meter.Decision, error) {
		return g.meter.Commit(ctx, meter.Settle{
			ID: r.ID, Account: r.Account, Amount: amount, Reserved: r.Amount, Note: r.Note,
		})
	})
}

func (g *Gateway) postRelease(c *call) (int, any, *problem) {
	if p := c.decode(&struct{}{}); p != nil {
		return 0, nil, p
	}
	r, p := g.named(c)
	if p != nil {
		return 0, nil, p
	}
	return g.settleByHand(r, "release", func(ctx context.Context) (meter.Decision, error) {
		return g.meter.Release(ctx, meter.Settle{ID: r.ID, Account: r.Account})
	})
}

func (g *Gateway) postExtend(c *call) (int, any, *problem) {
	var b struct {
		LeaseSeconds int64 `json:"lease_seconds"`
	}
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	lease, p := leaseOf(b.LeaseSeconds)
	if p != nil {
		return 0, nil, p
	}
	r, p := g.named(c)
	if p != nil {
		return 0, nil, p
	}
	return g.settleByHand(r, "extend", func(ctx context.Context) (meter.Decision, error) {
		return g.lookup.Extend(ctx, r.ID, lease)
	})
}

// settleByHand carries one verb out and shows the reservation after it.
func (g *Gateway) settleByHand(
	before meter.Reservation, verb string, do func(context.Context) (meter.Decision, error),
) (int, any, *problem) {
	ctx, cancel := g.within(g.set.SettleBudget)
	defer cancel()
	d, err := do(ctx)
	if err != nil {
		g.outages.Log(g.log, err).Str("account", before.Account).Stringer("reservation", before.ID).
			Msg("cannot settle for the control plane")
		return 0, nil, meteringUnavailable("the outcome is not known at the moment; repeating the call is safe")
	}
	if d.Code != meter.CodeOK {
		now := before
		if d.Reservation.State != 0 {
			now.State, now.Charged = d.Reservation.State, d.Reservation.Charged
		}
		return 0, nil, notHeld(now, verb)
	}
	after := d.Reservation
	if len(after.Draws) == 0 {
		after.Draws = before.Draws
	}
	return fasthttp.StatusOK, newReservationView(after, g.bucketsFor(after)), nil
}

// notHeld says what became of a reservation that a verb came too late for.
func notHeld(r meter.Reservation, verb string) *problem {
	p := &problem{code: codeChangeRefused, outcome: &r}
	p.detail = "reservation " + r.ID.String() + " is " + r.State.String()
	switch r.State {
	case meter.Committed, meter.Late:
		p.code = codeCommitted
		p.detail += " with " + r.Charged.String() + " credits charged"
		if verb == "commit" {
			p.code, p.param = codeAmountConflict, "credits"
			p.detail += "; only a commit of the same amount can be repeated"
		}
	case meter.Released:
		p.code = codeReleased
		p.detail += "; its credits went back, reserve anew"
	case meter.Expired:
		p.code = codeExpired
		p.detail += "; its lease ended and its credits went back, reserve anew"
	case meter.Uncollected:
		p.code = codeExpired
		p.detail += "; its lease had ended, and its commit found no credit to charge"
	case meter.Held: // another call changed it meanwhile
	}
	p.detail += "; nothing was changed by this " + verb
	return p
}
