package gateway

import (
	"creditgate/meter"
	"creditgate/meter/policy"
)

type packsView struct {
	Packs []packView `json:"packs"`
}

// packView is a pack as a billing page shows it to one account. Prices are net.
type packView struct {
	Name            string        `json:"name"`
	Bucket          string        `json:"bucket"`
	Credits         meter.Credits `json:"credits"`
	NetMinor        int64         `json:"net_minor"`
	Currency        string        `json:"currency"`
	UnitPrice       string        `json:"unit_price"`       // decimal text: money is no float
	DiscountPercent int           `json:"discount_percent"` // against the smallest pack of the list, rounded down
	Validity        string        `json:"validity"`         // for ever, 1 year, until 2027-01-01, until the next renewal
	ExpiresAt       *string       `json:"expires_at"`       // if it were bought now
	Refundable      bool          `json:"refundable"`
	BuyURL          *string       `json:"buy_url"`
}

// packs lists what the account may buy and then spend, smallest first.
func (g *Gateway) packs(who *Identity) (packsView, *problem) {
	d, p := g.readAccount(who.Account)
	if p != nil {
		return packsView{}, p
	}
	w := g.wallet(who, d)
	out := packsView{Packs: []packView{}}
	offered := w.offered()
	for _, k := range offered {
		out.Packs = append(out.Packs, w.packView(k, offered[0]))
	}
	return out, nil
}

func (w *wallet) packView(k, smallest *policy.Pack) packView {
	return packView{
		Name: k.Name, Bucket: k.Bucket, Credits: k.Credits, NetMinor: k.Price.Minor, Currency: k.Price.Currency,
		UnitPrice: k.UnitPrice(), DiscountPercent: k.DiscountPercent(smallest),
		Validity: k.Lifetime.Words(w.policy.Location), ExpiresAt: w.expiry(k), Refundable: k.Refundable,
		BuyURL: optional(k.BuyURL),
	}
}

// expiry is when a pack would end that is bought now; null: never. The next renewal is the reset that is issued
// already, wherever it was moved to; where none is, since the subscription ends, it is the end of the cycle.
func (w *wallet) expiry(k *policy.Pack) *string {
	if k.Lifetime.Kind == policy.NextRenewal {
		if r, ok := w.nextReset(); ok {
			return optional(msText(r.atMs))
		}
	}
	at, ok := w.policy.Expiry(k.Lifetime, w.terms, w.now())
	if !ok || at.IsZero() {
		return nil
	}
	return optional(timeText(at))
}
