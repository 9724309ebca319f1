package persist

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Engine applies changes to Redis. *meter.Engine is one.
type Engine interface {
	Grant(ctx context.Context, c meter.GrantChange) (meter.Decision, error)
	Revoke(ctx context.Context, c meter.Revocation) (meter.Decision, error)
	MoveExpiry(ctx context.Context, c meter.ExpiryMove) (meter.Decision, error)
	Reverse(ctx context.Context, r meter.Reversal) (meter.Decision, error)
	Suspend(ctx context.Context, account string, suspended bool, version uint32) (meter.Decision, error)
}

// Admin makes changes durable in Postgres first, then applies them to Redis in the same call. Redis away, slow or
// fenced is no error then: the answer says Applied false, and the sweeper applies the change later, once.
type Admin struct {
	*Store

	engine   Engine
	policies *policy.Catalog
	log      zerolog.Logger
}

// recheckMax bounds how often a change is read again because Redis had forgotten newer ones than the cursor it was
// checked at, recheckPause how long the flusher gets to move the cursor past them.
const (
	recheckMax   = 8
	recheckPause = 20 * time.Millisecond
)

// applyTimeout bounds how long an administrator waits for Redis after Postgres has the change.
const applyTimeout = 3 * time.Second

// NewAdmin puts an administrator's view on store and engine. Accounts created without a product get the only one of
// policies; where there are several, each new account must name its own.
func NewAdmin(store *Store, engine Engine, policies *policy.Catalog, log zerolog.Logger) *Admin {
	return &Admin{Store: store, engine: engine, policies: policies, log: log}
}

// PutAccount creates or changes an account. A change of suspended reaches Redis in the same call.
func (a *Admin) PutAccount(ctx context.Context, c AccountChange) (AccountState, error) {
	state, err := a.putAccount(ctx, c, a.policies.OnlyProduct())
	if err == nil && !state.Applied {
		state.Applied = a.applyFlags(ctx, c.Account)
	}
	return state, err
}

// Grant adds a lot of credit.
func (a *Admin) Grant(ctx context.Context, g NewGrant) (GrantState, error) {
	r, err := a.insertGrant(ctx, g)
	if err != nil {
		return GrantState{}, err
	}
	applied := a.apply(ctx, grantChange, r.id) != notApplied
	state, err := a.GrantState(ctx, g.Account, r.id)
	state.Applied, state.Repeated = applied, r.repeated
	return state, err
}

// Revoke takes back credit of a grant: what is available at once, the rest as debt that returned draws pay.
func (a *Admin) Revoke(ctx context.Context, v NewRevocation) (RevocationState, error) {
	r, err := a.insertRevocation(ctx, v)
	if err != nil {
		return RevocationState{}, err
	}
	done := a.apply(ctx, revocationChange, r.id)
	if done == applied {
		a.awaitBooked(ctx, v.Account, r.id)
	}
	state, err := a.revocationState(ctx, r.id)
	state.Applied, state.Repeated = done != notApplied, r.repeated
	return state, err
}

// MoveExpiry sets the expiry of a grant. ErrGrantGone if the grant holds nothing any more.
func (a *Admin) MoveExpiry(ctx context.Context, m ExpiryChange) (GrantState, error) {
	r, err := a.insertMove(ctx, m)
	if err != nil {
		return GrantState{}, err
	}
	result := a.apply(ctx, expiryChange, r.id)
	if result == nothingToApply && !r.repeated { // a repeated one may also have been superseded
		return GrantState{}, refuse(ErrGrantGone, "", "grant %s holds nothing any more, so its expiry cannot move", m.GrantID)
	}
	state, err := a.GrantState(ctx, m.Account, m.GrantID)
	state.Applied, state.Repeated = result == applied, r.repeated
	return state, err
}

// result says what became of applying a change.
type result int

const (
	notApplied result = iota // stays pending
	applied
	nothingToApply // void
)

// apply brings a change to Redis unless the ledger has it already. It never fails: the change is durable, and what
// does not succeed now stays pending.
func (a *Admin) apply(ctx context.Context, kind changeKind, id meter.ID) result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	log := a.log.With().Str("change", string(kind)).Stringer("id", id).Logger()
	for range recheckMax {
		c, err := a.change(ctx, kind, id)
		if err != nil {
			a.outages.Log(log, err).Msg("change stays pending")
			return notApplied
		}
		switch c.status {
		case "applied":
			return applied
		case "void":
			return nothingToApply
		}
		if c.with != (meter.ID{}) {
			return a.apply(ctx, revocationChange, c.with)
		}
		if ready, again := a.prepared(ctx, c); again {
			continue
		} else if !ready {
			return notApplied
		}
		if kind == reversalChange && c.undone.amount == 0 {
			return a.void(ctx, id, c)
		}
		decision, err := a.send(ctx, id, c)
		if err != nil {
			a.behind[a.partitionOf(c.account)].Store(true)
			a.outages.Log(log, err).Msg("change stays pending")
			return notApplied
		}
		switch decision.Code {
		case meter.CodeOK:
			return applied
		case meter.CodeRecheck:
			a.hurry(a.partitionOf(c.account))
			sleep(ctx, recheckPause)
		case meter.CodeGone:
			return a.void(ctx, id, c)
		default:
			log.Warn().Uint8("code", uint8(decision.Code)).Msg("Redis refused the change; it stays pending")
			return notApplied
		}
	}
	return notApplied
}

func (a *Admin) send(ctx context.Context, id meter.ID, c change) (meter.Decision, error) {
	switch c.kind {
	case revocationChange:
		v := meter.Revocation{
			ID: id, Account: c.account, Grant: c.grant.ID, Amount: c.credits, Beyond: c.beyond, Note: c.note,
			CheckedPseq: c.checked,
		}
		if c.undone.amount > 0 {
			v.Undone = &meter.Reversal{
				ID: c.undone.reversal, Grant: c.grant, Amount: c.undone.amount, Note: c.undone.note,
			}
		}
		return a.engine.Revoke(ctx, v)
	case expiryChange:
		return a.engine.MoveExpiry(ctx, meter.ExpiryMove{
			ID: id, Account: c.account, Grant: c.grant.ID, ExpiresMs: c.expiresMs, Note: c.note, CheckedPseq: c.checked,
		})
	case reversalChange:
		return a.engine.Reverse(ctx, meter.Reversal{
			ID: id, Account: c.account, Grant: c.grant, Amount: c.undone.amount, Note: c.note,
			CheckedPseq: c.checked,
		})
	default:
		return a.engine.Grant(ctx, meter.GrantChange{
			Account: c.account, Grant: c.grant, Note: c.note, CheckedPseq: c.checked,
		})
	}
}

// void ends a reversal with nothing to undo, or an expiry move whose grant is used up. A grant whose own entry is not
// flushed yet may only be unknown to a Redis that lost it, so the move then waits for the entry.
func (a *Admin) void(ctx context.Context, id meter.ID, c change) result {
	if c.grantStatus != "applied" {
		return notApplied
	}
	end := a.voidReversal
	if c.kind == expiryChange {
		end = a.voidMove
	}
	if err := end(ctx, id); err != nil {
		a.outages.Log(a.log, err).Stringer("id", id).Msg("change stays pending")
		return notApplied
	}
	return nothingToApply
}

// applyFlags brings the account's suspension to Redis. Versions order the attempts, so a late one does no harm.
func (a *Admin) applyFlags(ctx context.Context, account string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	f, err := a.flags(ctx, account)
	if err != nil || f.applied == f.version {
		return err == nil
	}
	decision, err := a.engine.Suspend(ctx, account, f.suspended, f.version)
	if err != nil || decision.Code != meter.CodeOK {
		a.behind[a.partitionOf(account)].Store(true)
		a.outages.Log(a.log, err).Str("account", account).Msg("suspension stays pending")
		return false
	}
	if err := a.flagsApplied(ctx, account, f); err != nil {
		a.outages.Log(a.log, err).Str("account", account).Msg("suspension is applied but not recorded; it will be repeated")
	}
	return true
}
