package main_test

import (
	"net/http"
	"strconv"

	"github.com/stretchr/testify/require"
)

// rulesA are those of Visual Foundry: credits sold in a shop, one for each photo, for ever.
func rulesA() []rule {
	return []rule{
		{"A1", "credits are internal tokens that generate images", tokensMakeImages},
		{"A2", "one credit is one generated photo, flat", onePhotoOneCredit},
		{"A3", "purchased credits are there immediately", boughtIsThere},
		{"A4", "they can be used at any time", usedAnyTime},
		{"A5", "deduction is automatic when an image is generated", deductedByItself},
		{"A6", "credits remain until they are used", remainUntilUsed},
		{"A7", "15 credits are 15 photos", fifteenAreFifteen},
		{"A8", "a shop order is what grants them", orderGrants},
	}
}

// picture is a request for n photos.
type picture struct {
	Prompt string `json:"prompt"`
	N      int    `json:"n,omitempty"`
	Size   string `json:"size,omitempty"`
}

func (c *seedAccount) generate(n int, header ...string) answer {
	return c.ask("POST", "/v1/images/generations", picture{Prompt: "a red bicycle", N: n}, header...)
}

func (c *seedAccount) generated(n int) {
	a := c.generate(n)
	require.Equal(c, http.StatusOK, a.status, "generate %d: %s", n, a.body)
	require.Equal(c, strconv.Itoa(n), a.charged())
}

func tokensMakeImages(p *player) {
	c := p.customer("maker")
	require.Equal(p, http.StatusPaymentRequired, c.generate(1).status, "no credit, no image")
	a := c.ask("POST", "/v1/images/edits", picture{Prompt: "a red bicycle"})
	require.Equal(p, []any{http.StatusNotFound, "unpriced-route"}, []any{a.status, a.code()}, "no other route makes images")
	require.Zero(p, c.calls())
	c.buy("photos-15")
	c.generated(1)
	require.Equal(p, 1, c.calls())
	c.has("purchased 14")
}

func onePhotoOneCredit(p *player) {
	c := p.customer("counter")
	c.buy("photos-50")
	c.generated(1)
	c.generated(4)
	for _, size := range [...]string{"256x256", "512x512", "1024x1024", "1792x1024", "auto"} {
		a := c.ask("POST", "/v1/images/generations", picture{Prompt: "a red bicycle", Size: size})
		require.Equal(p, "1", a.header.Get("X-Credits-Reserved"), "one photo is meant where n is not sent")
		require.Equal(p, "1", a.charged(), "%s: size does not matter, and n is 1", size)
	}
	c.has("purchased 40")
}

// The shop reports an order when it is paid; there is no second step.
func boughtIsThere(p *player) {
	c := p.customer("buyer")
	c.has("purchased 0")
	bought := c.buy("photos-15")
	require.True(p, bought.Applied)
	c.has("purchased 15")
	c.generated(1)
}

func usedAnyTime(p *player) {
	c := p.customer("sleeper")
	c.buyAll()
	c.generated(1)
	p.at("2026-05-03 03:15") // on a Sunday night
	c.generated(1)
	p.at("2027-08-15 23:59") // without any subscription, more than a year on
	c.generated(1)
	c.has("purchased 212")
}

// buyAll buys each of the three packs.
func (c *seedAccount) buyAll() {
	for _, pack := range [...]string{"photos-15", "photos-50", "photos-150"} {
		require.Nil(c, c.buy(pack).ExpiresAt, pack)
	}
	c.has("purchased 215")
}

func deductedByItself(p *player) {
	c := p.customer("worker")
	c.buy("photos-15")
	require.Equal(p, "12", c.generate(3).remaining(), "no call but the request itself")
	c.has("purchased 12")
	a := c.generate(3, headerFail, "1")
	require.Equal(p, "2", a.charged(), "two of three were generated")
	a = c.generate(3, headerFail, "-1")
	require.Equal(p, []any{http.StatusInternalServerError, "0"}, []any{a.status, a.charged()}, "nothing was generated")
	c.has("purchased 10")
}

func remainUntilUsed(p *player) {
	c := p.customer("keeper")
	c.buyAll()
	p.at("2031-03-01 00:00") // five years on
	c.has("purchased 215")
	b := c.balance()
	require.Nil(p, b.NextReset)
	require.Nil(p, b.Buckets[0].NextExpiry)
	c.generated(10)
	c.has("purchased 205")
}

func fifteenAreFifteen(p *player) {
	c := p.customer("linear")
	c.buy("photos-15")
	require.Equal(p, http.StatusBadRequest, c.generate(11).status, "ten photos in one request, at most")
	c.generated(10)
	c.generated(4)
	c.generated(1)
	a := c.generate(1)
	require.Equal(p, http.StatusPaymentRequired, a.status, "the 16th photo")
	require.Equal(p, "insufficient-credits", a.code())
	c.has("purchased 0")
}

func orderGrants(p *player) {
	c := p.customer("collector")
	for pack, price := range map[string]int64{"photos-15": 150_00, "photos-50": 450_00, "photos-150": 1200_00} {
		bought := c.buy(pack)
		require.Equal(p, []any{price, "TRY"}, []any{bought.NetMinor, bought.Currency}, pack)
	}
	c = p.customer("shopper")
	order := fields{"pack": "photos-15", "external_ref": c.name + "-order", "invoice_ref": "INV-7", "net_minor": 15000, "currency": "TRY"}
	first := c.must("POST", c.path("/purchases"), order)
	require.Equal(p, http.StatusCreated, first.status)
	again := c.must("POST", c.path("/purchases"), order)
	require.Equal(p, http.StatusOK, again.status, "the shop may repeat itself")
	c.has("purchased 15")
	order["quantity"] = 2
	require.Equal(p, http.StatusConflict, c.control("POST", c.path("/purchases"), order).status, "but not with another order")
	shown := decode[purchase](p, c.must("GET", "/v1/purchases/"+c.name+"-order", nil))
	require.Equal(p, []any{"INV-7", int64(15000), "TRY", "granted"}, []any{shown.Invoice, shown.NetMinor, shown.Currency, shown.State})
}
