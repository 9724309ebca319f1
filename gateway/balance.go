package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// What a studio's header and a billing page show of an account. Redis says what there is now and what the next reset
// brings, since grants are issued a cycle ahead; the identity says the plan; Postgres adds what a fair-use cap was to
// begin with, and is not waited for long: without it the cap is the policy's.

const (
	// statementTimeout is how long a balance waits for Postgres, which only adds to it.
	statementTimeout = 500 * time.Millisecond
	// statementsMax bounds how many balances ask Postgres at a time: whoever asks for balances without end must not take
	// the connections by which keys are looked up and the ledger is written.
	statementsMax = 2
)

type balanceView struct {
	Account     string         `json:"account"`
	Suspended   bool           `json:"suspended,omitempty"`
	Available   *meter.Credits `json:"available"` // null: unlimited
	Held        meter.Credits  `json:"held"`
	Debt        meter.Credits  `json:"debt"`
	Buckets     []bucketView   `json:"buckets"`
	Plan        *string        `json:"plan"`
	NextResetAt *string        `json:"next_reset_at"`
	NextReset   *resetView     `json:"next_reset"`
}

type bucketView struct {
	Name       string         `json:"name"`
	Available  *meter.Credits `json:"available"` // null: unlimited
	Held       meter.Credits  `json:"held"`
	Waiting    meter.Credits  `json:"waiting,omitempty"` // kept while an unlimited plan is in force
	Unlimited  bool           `json:"unlimited"`
	FairUse    *fairUseView   `json:"fair_use,omitempty"` // where unlimited
	NextExpiry *expiryView    `json:"next_expiry"`
}

// fairUseView is what is behind an unlimited bucket: cap = used + left + held. Cap and used are null when nobody knows.
type fairUseView struct {
	Cap  *meter.Credits `json:"cap"`
	Used *meter.Credits `json:"used"`
	Left meter.Credits  `json:"left"`
}

type expiryView struct {
	Credits meter.Credits `json:"credits"`
	At      string        `json:"at"`
}

// resetView is the next reset; credits null: what it brings is unlimited.
type resetView struct {
	At      string         `json:"at"`
	Credits *meter.Credits `json:"credits"`
}

// caps are the fair-use caps in force, by bucket.
type caps map[string]meter.Credits

// wallet is an account at a moment beside what was agreed with it: what every view of its credit is made from.
type wallet struct {
	account meter.Account
	nowMs   int64
	policy  *policy.Policy // nil if none is loaded for the product
	plan    *policy.Plan   // nil without a subscription
	term    policy.Term
	terms   policy.History
}

func (g *Gateway) wallet(who *Identity, d meter.Decision) wallet {
	w := wallet{account: d.Account, nowMs: d.NowMs, policy: g.policies.Policy(who.Product), terms: who.Terms}
	if term, ok := who.Term(w.now()); ok {
		w.term = term
		if w.policy != nil {
			w.plan, _ = w.policy.Plan(term.Plan)
		}
	}
	return w
}

func (w *wallet) now() time.Time { return time.UnixMilli(w.nowMs) }

// unlimited are the fair-use caps in force, as grants.
func (w *wallet) unlimited() (out []meter.Grant) {
	for _, g := range w.account.Grants {
		if g.Unlimited && g.Live(w.nowMs) {
			out = append(out, g)
		}
	}
	return out
}

// policyCaps are the caps of the grants in force as the plan has them, for when Postgres is not asked.
func (w *wallet) policyCaps() caps {
	out := caps{}
	if w.plan == nil {
		return out
	}
	for _, c := range w.plan.Contingents {
		if c.Unlimited && slices.ContainsFunc(w.unlimited(), func(g meter.Grant) bool { return g.Bucket == c.Bucket }) {
			out[c.Bucket] = c.Amount.For(w.term.Slots)
		}
	}
	return out
}

// reset is the next renewal of an account's contingents.
type reset struct {
	atMs      int64
	credits   meter.Credits // that it brings, a promotion's that begins with it included
	unlimited bool
}

// nextReset finds where the grants begin that are issued for the next cycle: credit promised for a later day is no reset,
// nor is what begins before the cycle is over, such as a contingent that was negotiated from its middle on.
func (w *wallet) nextReset() (r reset, ok bool) {
	over := w.nowMs + 1
	if w.plan != nil {
		if at, runs := w.policy.Renewal(w.terms, w.now()); runs {
			over = at.UnixMilli()
		}
	}
	r.atMs, ok = w.begins(over)
	if !ok {
		r.atMs, ok = w.begins(w.nowMs + 1)
	}
	for _, g := range w.account.Grants {
		if ok && g.EffectiveMs == r.atMs {
			r.credits += g.Available
			r.unlimited = r.unlimited || g.Unlimited
		}
	}
	return r, ok
}

// begins is when the first grant that renews begins, at a moment or later.
func (w *wallet) begins(from int64) (atMs int64, ok bool) {
	for i := range w.account.Grants {
		g := &w.account.Grants[i]
		if g.EffectiveMs >= from && (!ok || g.EffectiveMs < atMs) && w.renews(g) {
			atMs, ok = g.EffectiveMs, true
		}
	}
	return atMs, ok
}

// renews reports whether a grant that has not begun is of a cycle, and not promised for a later day: the plan by then
// renews its bucket, or it lasts exactly a cycle, as a contingent does that was negotiated where the plan has none. Where
// nothing is known of the account's product anything counts.
func (w *wallet) renews(g *meter.Grant) bool {
	if w.policy == nil {
		return true
	}
	begins := time.UnixMilli(g.EffectiveMs)
	term, ok := w.terms.At(begins)
	if !ok {
		return false
	}
	plan, ok := w.policy.Plan(term.Plan)
	if !ok { // it is on no policy's list any more: what was issued still comes
		return true
	}
	if slices.ContainsFunc(plan.Contingents, func(c policy.Contingent) bool { return c.Bucket == g.Bucket }) {
		return true
	}
	cycle, ok := w.policy.CycleAt(w.terms, begins)
	return ok && cycle.From.UnixMilli() == g.EffectiveMs && cycle.To.UnixMilli() == g.ExpiresMs
}

func (w *wallet) resetAt() *string {
	r, ok := w.nextReset()
	if !ok {
		return nil
	}
	return optional(msText(r.atMs))
}

func (w *wallet) resetView() *resetView {
	r, ok := w.nextReset()
	if !ok {
		return nil
	}
	v := &resetView{At: msText(r.atMs)}
	if !r.unlimited {
		v.Credits = &r.credits
	}
	return v
}

// bucketNames are what its balances list, in drain order.
func (w *wallet) bucketNames() []string {
	if w.policy == nil {
		return nil
	}
	return w.policy.Buckets
}

// bucketViews shows each bucket.
func (w *wallet) bucketViews(known caps) []bucketView {
	out := make([]bucketView, 0, len(w.bucketNames()))
	for _, b := range w.account.Buckets(w.bucketNames(), w.nowMs) {
		v := bucketView{Name: b.Name, Available: &b.Available, Held: b.Held, Waiting: w.waiting(b.Name)}
		if b.NextExpiry != nil {
			v.NextExpiry = &expiryView{Credits: b.NextExpiry.Credits, At: msText(b.NextExpiry.AtMs)}
		}
		w.showUnlimited(&v, known)
		out = append(out, v)
	}
	return out
}

// waiting is what a bucket holds behind a grant that stops it from being drawn.
func (w *wallet) waiting(bucket string) (sum meter.Credits) {
	stopped := false
	for _, g := range w.account.Grants {
		if stopped && g.Bucket == bucket && g.Live(w.nowMs) {
			sum += g.Available
		}
		stopped = stopped || g.Stops && g.Live(w.nowMs)
	}
	return sum
}

// showUnlimited shows a bucket with a fair-use cap in force as what the customer bought: no number, and the cap beside.
// A cap that is used up and lets others follow is forgotten by Redis; that it is still in force only Postgres knows.
func (w *wallet) showUnlimited(v *bucketView, known caps) {
	f := &fairUseView{}
	for _, g := range w.unlimited() {
		if g.Bucket == v.Name {
			v.Unlimited = true
			f.Left += g.Available
		}
	}
	most, ok := known[v.Name]
	if v.Unlimited = v.Unlimited || ok; !v.Unlimited {
		return
	}
	if ok {
		used := max(0, most-f.Left-v.Held)
		f.Cap, f.Used = &most, &used
	}
	v.Available, v.NextExpiry, v.FairUse = nil, nil, f
}

// available is what can be spent; null while a cap is in force that anything is left of, or that stops what is behind.
func (w *wallet) available() *meter.Credits {
	for _, g := range w.unlimited() {
		if g.Available > 0 || g.Stops {
			return nil
		}
	}
	sum := w.account.Available(w.nowMs)
	return &sum
}

// debt is what was taken back of grants after it had been spent, and returned credit will pay first.
func (w *wallet) debt() (sum meter.Credits) {
	for _, g := range w.account.Grants {
		sum += g.Debt
	}
	return sum
}

// balance shows an account.
func (g *Gateway) balance(who *Identity) (balanceView, *problem) {
	d, p := g.readAccount(who.Account)
	if p != nil {
		return balanceView{}, p
	}
	w := g.wallet(who, d)
	known, owed := g.statement(&w, who.Account)
	v := balanceView{
		Account: who.Account, Suspended: who.Suspended, Available: w.available(), Held: w.account.Held(), Debt: w.debt() + owed,
		Buckets: w.bucketViews(known), Plan: optional(w.term.Plan), NextReset: w.resetView(),
	}
	if v.NextReset != nil {
		v.NextResetAt = &v.NextReset.At
	}
	return v, nil
}

// statement asks Postgres for what Redis does not keep: what caps were granted with, and the debt of grants that are
// used up. Without an answer caps are the policy's and only the debt in Redis is known.
func (g *Gateway) statement(w *wallet, account string) (known caps, owed meter.Credits) {
	patience := statementTimeout
	if g.auth.cache.away() {
		patience = awayTimeout
	}
	ctx, cancel := g.within(patience)
	defer cancel()
	live := make([]meter.ID, len(w.account.Grants))
	for i := range live {
		live[i] = w.account.Grants[i].ID
	}
	var s Statement
	err := g.asking.do(ctx, func() (err error) {
		s, err = g.statements.Statement(ctx, account, live, w.now())
		return err
	})
	if err != nil {
		g.log.Debug().Err(err).Msg("a balance is shown without what Postgres knows")
		return w.policyCaps(), 0
	}
	known = caps{}
	for _, c := range s.Caps {
		if c.UsedUp || slices.Contains(live, c.Grant) { // else Redis does not have it yet
			known[c.Bucket] += c.Credits
		}
	}
	return known, s.Owed
}

// turnstile lets so many callers through at a time as it has room for.
type turnstile chan struct{}

// do calls f when there is room. Who has waited until ctx ends gets its error instead.
func (t turnstile) do(ctx context.Context, f func() error) error {
	select {
	case t <- struct{}{}:
		defer func() { <-t }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// getBalance is the control plane's view of the same.
func (g *Gateway) getBalance(c *call) (int, any, *problem) {
	v, p := g.balance(g.identityOf(c.names[0]))
	return fasthttp.StatusOK, v, p
}

// identityOf is an account as Postgres has it. Without Postgres only its name is known: then its balance lists only
// buckets that hold something.
func (g *Gateway) identityOf(account string) *Identity {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	who, err := g.auth.source.IdentityByAccount(ctx, account)
	if err != nil {
		return &Identity{Account: account}
	}
	return &who
}
