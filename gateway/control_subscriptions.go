package gateway

import (
	"net/url"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

type subscriptionBody struct {
	Plan        string     `json:"plan"`
	Slots       *uint32    `json:"slots"`
	Period      *string    `json:"period"`
	StartsAt    *time.Time `json:"starts_at"`
	AnchorAt    *time.Time `json:"anchor_at"`
	ExternalRef string     `json:"external_ref"`
}

type subscriptionView struct {
	Account     string         `json:"account"`
	Plan        string         `json:"plan"`
	Slots       uint32         `json:"slots"`
	Period      string         `json:"period"`
	StartsAt    string         `json:"starts_at"`
	EndsAt      *string        `json:"ends_at"`
	Cycle       *cycleView     `json:"cycle"`
	NextResetAt *string        `json:"next_reset_at"`
	Scheduled   *scheduledView `json:"scheduled"`
	Applied     bool           `json:"applied"`
}

type cycleView struct {
	StartsAt string `json:"starts_at"`
	EndsAt   string `json:"ends_at"`
}

type scheduledView struct {
	Plan   string `json:"plan"`
	Slots  uint32 `json:"slots"`
	Period string `json:"period"`
	At     string `json:"at"`
}

func newSubscriptionView(s Subscription) subscriptionView {
	v := subscriptionView{
		Account: s.Account, Plan: s.Plan, Slots: s.Slots, Period: period(s.Yearly), StartsAt: timeText(s.StartsAt),
		EndsAt: timeOrAbsent(s.EndsAt), NextResetAt: timeOrAbsent(s.NextReset), Applied: s.Applied,
	}
	if !s.CycleEnds.IsZero() {
		v.Cycle = &cycleView{StartsAt: timeText(s.CycleStarts), EndsAt: timeText(s.CycleEnds)}
	}
	if t := s.Scheduled; t != nil {
		v.Scheduled = &scheduledView{Plan: t.Plan, Slots: t.Slots, Period: period(t.Yearly), At: timeText(t.At)}
	}
	return v
}

func period(yearly bool) string {
	if yearly {
		return "yearly"
	}
	return "monthly"
}

// timeOrAbsent is null for the zero time.
func timeOrAbsent(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return optional(timeText(t))
}

// putSubscription begins or changes a subscription. Repeating it changes nothing.
func (g *Gateway) putSubscription(c *call) (int, any, *problem) {
	var b subscriptionBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, false)
	if p != nil {
		return 0, nil, p
	}
	var yearly *bool
	if b.Period != nil {
		if *b.Period != period(false) && *b.Period != period(true) {
			return 0, nil, &problem{code: codeInvalid, param: "period", detail: "period must be monthly or yearly"}
		}
		is := *b.Period == period(true)
		yearly = &is
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.subscriptions.PutSubscription(ctx, SubscriptionChange{
		Account: c.names[0], Plan: b.Plan, Slots: b.Slots, Yearly: yearly, StartsAt: orZero(b.StartsAt),
		AnchorAt: orZero(b.AnchorAt), Ref: ref, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	if s.Created {
		return fasthttp.StatusCreated, newSubscriptionView(s), nil
	}
	return fasthttp.StatusOK, newSubscriptionView(s), nil
}

func (g *Gateway) getSubscription(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.subscriptions.Subscription(ctx, c.names[0])
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	return fasthttp.StatusOK, newSubscriptionView(s), nil
}

// deleteSubscription lets a subscription end, when what is paid for is over unless at=now is asked for.
func (g *Gateway) deleteSubscription(c *call) (int, any, *problem) {
	q, err := url.ParseQuery(c.query)
	at := q.Get("at")
	if err != nil || at != "" && at != "period_end" && at != "now" {
		return 0, nil, &problem{code: codeInvalid, param: "at", detail: "at must be period_end, which it is by default, or now"}
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.subscriptions.EndSubscription(ctx, SubscriptionEnd{
		Account: c.names[0], AtOnce: at == "now", Ref: c.ref, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	return fasthttp.StatusOK, newSubscriptionView(s), nil
}

type overrideBody struct {
	Kind    string         `json:"kind"`
	Target  string         `json:"target"`
	Credits *meter.Credits `json:"credits"`
	From    *time.Time     `json:"from"`
	Until   *time.Time     `json:"until"`
	Reason  string         `json:"reason"`
}

type overrideView struct {
	Ref     string        `json:"ref"`
	Account string        `json:"account"`
	Kind    string        `json:"kind"`
	Target  string        `json:"target"`
	Credits meter.Credits `json:"credits"`
	From    string        `json:"from"`
	Until   *string       `json:"until"`
	Reason  string        `json:"reason,omitempty"`
	Applied *bool         `json:"applied,omitempty"` // of a change
}

func newOverrideView(s OverrideState) overrideView {
	return overrideView{
		Ref: s.Ref, Account: s.Account, Kind: s.Kind, Target: s.Target, Credits: s.Credits, From: timeText(s.From),
		Until: timeOrAbsent(s.Until), Reason: s.Reason,
	}
}

// putOverride records what was negotiated with an account, under the reference in the path.
func (g *Gateway) putOverride(c *call) (int, any, *problem) {
	var b overrideBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	if p := checkReason(b.Reason); p != nil {
		return 0, nil, p
	}
	if b.Kind == "" && b.Credits == nil { // the missing kind is told first, by those who know the kinds
		b.Credits = new(meter.Credits)
	}
	if b.Credits == nil || *b.Credits < 0 {
		return 0, nil, &problem{code: codeInvalid, param: "credits", detail: "credits must be a number from 0, such as 500 or 0.25"}
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.subscriptions.PutOverride(ctx, NewOverride{
		Account: c.names[0], Ref: c.names[1], Kind: b.Kind, Target: b.Target, Credits: *b.Credits, From: orZero(b.From),
		Until: orZero(b.Until), Reason: b.Reason, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	v := newOverrideView(s)
	v.Applied = &s.Applied
	if s.Created {
		return fasthttp.StatusCreated, v, nil
	}
	return fasthttp.StatusOK, v, nil
}

func (g *Gateway) deleteOverride(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.subscriptions.EndOverride(ctx, c.names[0], c.names[1], c.actor)
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	v := newOverrideView(s)
	v.Applied = &s.Applied
	return fasthttp.StatusOK, v, nil
}

func (g *Gateway) getOverrides(c *call) (int, any, *problem) {
	if _, err := g.readAdminAccount(c.names[0]); err != nil {
		return 0, nil, g.readProblem(err)
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	all, err := g.subscriptions.Overrides(ctx, c.names[0])
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	out := struct {
		Overrides []overrideView `json:"overrides"`
	}{make([]overrideView, len(all))}
	for i, s := range all {
		out.Overrides[i] = newOverrideView(s)
	}
	return fasthttp.StatusOK, out, nil
}
