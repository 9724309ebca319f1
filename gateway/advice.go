package gateway

import (
	"creditgate/meter"
	"creditgate/meter/policy"
)

// adviceView says what would help somebody who has too little: to wait for the reset, or to buy one of these packs, the
// smallest that suffices first.
type adviceView struct {
	Action  string         `json:"action"` // wait_for_reset or buy
	At      *string        `json:"at,omitempty"`
	Credits *meter.Credits `json:"credits,omitempty"`
	Packs   []string       `json:"packs,omitempty"`
}

// advice is what to do about a request that needs more than there is. It is made of what the refusal brought along and
// of the policy: nothing more is asked for it. nil: nothing known would help, or only a moment's patience, since what is
// missing is held by the account's own requests.
func (w *wallet) advice(required meter.Credits) *adviceView {
	available := w.account.Available(w.nowMs)
	if w.policy == nil || available+w.account.Held() >= required {
		return nil
	}
	if r, ok := w.nextReset(); ok && w.worthWaiting(r) && meter.PlanDraws(w.account.Grants, required, r.atMs) != nil {
		v := &adviceView{Action: "wait_for_reset", At: optional(msText(r.atMs))}
		if !r.unlimited {
			v.Credits = &r.credits
		}
		return v
	}
	if w.policy.Rules.RefuseWhile && available > 0 {
		return nil // nothing is sold while credit is left
	}
	if packs := w.helpful(required - available); len(packs) > 0 {
		return &adviceView{Action: "buy", Packs: packs}
	}
	return nil
}

// worthWaiting counts days as the product's calendar does.
func (w *wallet) worthWaiting(r reset) bool {
	last := w.now().In(w.policy.Location).AddDate(0, 0, w.policy.Rules.WaitDays)
	return r.atMs <= last.UnixMilli()
}

// helpful names the packs that the account may buy and that suffice, smallest first; if none does alone, the largest,
// of which several do.
func (w *wallet) helpful(missing meter.Credits) []string {
	packs := w.offered()
	var out []string
	for _, k := range packs {
		if k.Credits >= missing {
			out = append(out, k.Name)
		}
	}
	if len(out) == 0 && len(packs) > 0 {
		out = append(out, packs[len(packs)-1].Name)
	}
	return out
}

// offered are the packs that the account may buy and then spend, smallest first: behind a cap that stops, bought credit
// would lie there unused.
func (w *wallet) offered() (out []*policy.Pack) {
	if w.policy == nil {
		return nil
	}
	for _, k := range w.policy.PacksFor(w.term.Plan, w.now()) {
		if !w.blocks(k.Rank) {
			out = append(out, k)
		}
	}
	return out
}

func (w *wallet) blocks(rank uint8) bool {
	for _, g := range w.account.Grants {
		if g.Stops && g.Live(w.nowMs) && g.Rank <= rank {
			return true
		}
	}
	return false
}
