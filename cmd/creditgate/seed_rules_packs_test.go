package main_test

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// offer is a pack that an account may buy.
type offer struct {
	Name            string  `json:"name"`
	Credits         float64 `json:"credits"`
	NetMinor        int64   `json:"net_minor"`
	UnitPrice       string  `json:"unit_price"`
	DiscountPercent float64 `json:"discount_percent"`
}

func (c *seedAccount) offers() []offer {
	a := c.ask("GET", "/credits/packs", nil)
	require.Equal(c, http.StatusOK, a.status, "%s", a.body)
	return decode[struct {
		Packs []offer `json:"packs"`
	}](c.player, a).Packs
}

func (c *seedAccount) offered() string {
	var names []string
	for _, o := range c.offers() {
		names = append(names, o.Name)
	}
	return strings.Join(names, " ")
}

func buyWhenOut(p *player) {
	c := p.member("agency", "professional", 1)
	c.applied(5)
	p.at("2026-03-10 22:30") // weeks before the reset, at night
	a := c.apply(1)
	require.Equal(p, http.StatusPaymentRequired, a.status)
	advice := decode[struct {
		Advice struct {
			Action string   `json:"action"`
			Packs  []string `json:"packs"`
		} `json:"advice"`
	}](p, a).Advice
	require.Equal(p, "buy", advice.Action, "%s", a.body)
	require.Contains(p, advice.Packs, "plus-50")
	c.buy("plus-50")
	c.applied(1)
	c.has("promo 0, monthly 0, purchased 49")
}

func validOneYear(p *player) {
	c, plus := p.member("agency", "basic", 0), p.member("plus", "professional_plus", 1)
	p.at("2026-03-10 10:00")
	for _, pack := range [...]string{"plus-50", "plus-200", "plus-500"} {
		ends := plus.buy(pack).ExpiresAt
		require.True(p, ends != nil && p.local("2027-03-11 00:00").Equal(*ends), "%s: the end of 2027-03-10, not %v", pack, ends)
	}
	first := c.buy("basic-100")
	p.at("2026-04-20 10:00")
	c.buy("basic-500")
	for _, pack := range [...]string{"basic-500", "basic-2000"} {
		ends := p.member(pack, "basic", 0).buy(pack).ExpiresAt
		require.True(p, ends != nil && p.local("2027-04-21 00:00").Equal(*ends), "%s: the end of 2027-04-20, not %v", pack, ends)
	}
	require.NotNil(p, first.ExpiresAt)
	require.True(p, p.local("2027-03-11 00:00").Equal(*first.ExpiresAt), "the end of 2027-03-10, not %s", first.ExpiresAt)
	p.at("2027-03-10 23:00")
	c.has("promo 0, monthly 0, purchased 600")
	p.at("2027-03-11 00:00")
	c.has("promo 0, monthly 0, purchased 500")
	p.at("2027-04-21 00:00")
	c.has("promo 0, monthly 0, purchased 0")
}

func exactlyThreePacks(p *player) {
	require.Len(p, p.member("plus", "professional_plus", 1).offers(), 3)
	require.Len(p, p.member("professional", "professional", 1).offers(), 3)
	require.Len(p, p.member("basic", "basic", 1).offers(), 3)
}

// listPrices are those that the policy assumes, in cents.
func listPrices() map[string]int64 {
	return map[string]int64{
		"plus-50": 45_00, "plus-200": 160_00, "plus-500": 350_00, "basic-100": 95_00, "basic-500": 425_00, "basic-2000": 1500_00,
	}
}

func largerIsCheaper(p *player) {
	for _, plan := range [...]string{"professional_plus", "basic"} {
		last, discount := time.Duration(0), -1.0
		for n, o := range p.member(strings.ReplaceAll(plan, "_", "-"), plan, 1).offers() {
			unit := time.Duration(float64(o.NetMinor) / o.Credits * 1e6)
			if n > 0 {
				require.Less(p, unit, last, "%s is cheaper by the credit", o.Name)
			}
			require.Equal(p, listPrices()[o.Name], o.NetMinor, o.Name)
			require.Greater(p, o.DiscountPercent, discount)
			price, err := strconv.ParseFloat(o.UnitPrice, 64)
			require.NoError(p, err)
			require.InDelta(p, float64(o.NetMinor)/100/o.Credits, price, 0.005)
			last, discount = unit, o.DiscountPercent
		}
	}
}

func noFurtherDiscount(p *player) {
	c := p.member("agency", "professional", 1)
	a := c.order("plus-50", fields{"net_minor": 4000, "currency": "EUR"})
	require.Equal(p, http.StatusBadRequest, a.status, "%s", a.body)
	c.has("promo 0, monthly 5, purchased 0")
	a = c.order("plus-50", fields{"net_minor": 4500, "currency": "EUR"})
	require.Equal(p, http.StatusCreated, a.status, "the list price: %s", a.body)
	for _, deal := range [...]struct {
		credits float64
		status  int
	}{{0.5, http.StatusBadRequest}, {1, http.StatusCreated}, {1.5, http.StatusCreated}} {
		a = c.control("PUT", c.path("/overrides/"+c.ref()), fields{"kind": "unit_credits", "target": "apply", "credits": deal.credits})
		require.Equal(p, deal.status, a.status, "%v credits a unit: %s", deal.credits, a.body)
	}
}

func packsByPlan(p *player) {
	stranger := p.customer("stranger")
	require.Empty(p, stranger.offered(), "for sale without a subscription")
	for pack := range listPrices() {
		require.Equal(p, http.StatusForbidden, stranger.order(pack, nil).status, "%s without a subscription", pack)
	}
	plus := p.member("plus", "professional_plus", 1)
	require.Equal(p, "plus-50 plus-200 plus-500", plus.offered())
	require.Equal(p, "plus-50 plus-200 plus-500", p.member("professional", "professional", 1).offered())
	basic := p.member("basic", "basic", 1)
	require.Equal(p, "basic-100 basic-500 basic-2000", basic.offered())
	a := plus.order("basic-100", nil)
	require.Equal(p, []any{http.StatusForbidden, "pack-not-eligible"}, []any{a.status, a.code()}, "%s", a.body)
	a = basic.order("plus-50", nil)
	require.Equal(p, []any{http.StatusForbidden, "pack-not-eligible"}, []any{a.status, a.code()}, "%s", a.body)
}

func billedByInvoice(p *player) {
	c := p.member("agency", "basic", 0)
	a := c.order("basic-100", fields{"invoice_ref": "INV-1", "tax_minor": 1805})
	bought := decode[purchase](p, a)
	require.Equal(p, http.StatusCreated, a.status, "%s", a.body)
	require.Nil(p, bought.PaidAt, "no money has come")
	c.applied(1)
	c.must("POST", "/v1/purchases/"+bought.Ref+"/payment", fields{"status": "paid", "external_ref": c.ref()})
	shown := decode[purchase](p, c.must("GET", "/v1/purchases/"+bought.Ref, nil))
	require.NotNil(p, shown.PaidAt)
	require.Equal(p, "INV-1", shown.Invoice)
	c.has("promo 0, monthly 0, purchased 99")
}

func headerShowsBalance(p *player) {
	c := p.member("agency", "professional", 3)
	c.buy("plus-50")
	require.Equal(p, "65", c.balance().Available.String())
	require.Equal(p, "63", c.apply(2).remaining(), "with each answer")
	require.Equal(p, "63", c.balance().Available.String())
	premium := p.member("premium", "premium", 3)
	require.Nil(p, premium.balance().Available)
	require.Equal(p, "unlimited", premium.apply(2).remaining())
}

func breakdownIsShown(p *player) {
	all := p.member("all-plus", "professional", 2)
	all.buy("plus-50")
	all.buy("plus-200")
	all.buy("plus-500")
	all.has("promo 0, monthly 10, purchased 750")
	all = p.member("all-basic", "basic", 2)
	all.buy("basic-100")
	all.buy("basic-500")
	all.buy("basic-2000")
	all.has("promo 0, monthly 0, purchased 2600")
	p.at("2026-03-20 09:00")
	c := p.member("agency", "professional_plus", 2)
	c.buy("plus-50")
	c.has("promo 20, monthly 20, purchased 50")
	b := c.balance()
	require.NotNil(p, b.Plan)
	require.Equal(p, "professional_plus", *b.Plan)
	for i, at := range [...]string{"2026-04-13 00:00", "2026-04-01 00:00", "2027-03-21 00:00"} {
		next := b.Buckets[i].NextExpiry
		require.NotNil(p, next, b.Buckets[i].Name)
		require.True(p, p.local(at).Equal(next.At), "%s ends at %s", b.Buckets[i].Name, next.At)
	}
}
