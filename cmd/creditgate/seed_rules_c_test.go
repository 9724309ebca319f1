package main_test

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
)

// rulesC are those of the 3D studio: a price for each tool, and packs on top of a subscription.
func rulesC() []rule {
	return []rule{
		{"C1", "packs are one-off, on top of a subscription", packsAreOneOff},
		{"C2", "pack credits are valid until the next monthly renewal", packUntilRenewal},
		{"C3", "packs can be bought in every cycle", packsEveryCycle},
		{"C4", "monthly plan: the pack's balance resets at the end of the cycle", packResetsMonthly},
		{"C5", "yearly plan: it resets at the start of the next monthly cycle", packResetsYearly},
		{"C6", "no pack without an active Starter or Pro subscription", packNeedsSubscription},
		{"C7", "the account shows what is left of packs", packIsShown},
		{"C8", "the editor shows only the total", totalIsShown},
		{"C9", "subscription credits first, packs only after them", subscriptionFirst},
		{"C10", "no refund for unused pack credits", packNotRefunded},
		{"C11", "unlimited free trials", trialsAreFree},
		{"C12", "the price list", priceList},
		{"C13", "credits are added instantly, and the balance can be asked again", addedInstantly},
		{"C14", "pack credits work for all five tools", packForAllTools},
	}
}

// model is what a generation is made with.
type model struct {
	Model string `json:"model"`
}

// tool uses one of the five tools.
func (c *seedAccount) tool(name string) answer {
	switch name {
	case "background-removal", "style-transfer":
		return c.ask("POST", "/3d/"+name, fields{})
	}
	return c.ask("POST", "/3d/generations", model{name})
}

// used uses a tool, at its price.
func (c *seedAccount) used(name string, price int) {
	a := c.tool(name)
	require.Equal(c, http.StatusOK, a.status, "%s: %s", name, a.body)
	require.Equal(c, strconv.Itoa(price), a.charged(), name)
}

// spendStarter uses up the 500 credits of a Starter subscription.
func (c *seedAccount) spendStarter() {
	for range 6 {
		c.used("ultra", 80)
	}
	c.used("turbo", 20)
}

func packsAreOneOff(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	c.buy("extra-200")
	c.has("subscription 500, pack 200")
	p.at("2026-04-11 10:00")
	c.has("subscription 500, pack 0")
}

func packUntilRenewal(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	p.at("2026-03-20 12:00")
	bought := c.buy("extra-200")
	require.NotNil(p, bought.ExpiresAt)
	reset := c.balance().NextResetAt
	require.NotNil(p, reset)
	require.Equal(p, *reset, *bought.ExpiresAt, "the plan's renewal")
	require.WithinDuration(p, p.local("2026-04-10 10:00"), *bought.ExpiresAt, 10*time.Minute)
	p.at("2026-04-10 09:00")
	c.has("subscription 500, pack 200")
	p.at("2026-04-10 11:00")
	c.has("subscription 500, pack 0")
}

func packsEveryCycle(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	c.buy("extra-200")
	c.buy("extra-200")
	c.has("subscription 500, pack 400")
	p.at("2026-04-11 10:00")
	c.buy("extra-200")
	c.has("subscription 500, pack 200")
	p.at("2026-05-11 10:00")
	c.buy("extra-200")
	c.has("subscription 500, pack 200")
}

func packResetsMonthly(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	p.at("2026-03-20 12:00")
	c.buy("extra-1000")
	c.used("ultra", 80)
	p.at("2026-04-10 09:00")
	c.has("subscription 420, pack 1000")
	p.at("2026-04-10 11:00")
	c.has("subscription 500, pack 0")
	require.NotEmpty(p, c.history("lapse", 1))
}

func packResetsYearly(p *player) {
	p.at("2026-03-10 10:00")
	c := p.customer("maker")
	c.subscribe("pro", 0, "yearly")
	c.buy("extra-5000")
	c.used("ultra", 80)
	p.at("2026-03-30 20:00") // the 31st in zones east of here, whose next month is a day shorter
	late := p.customer("late")
	late.subscribe("pro", 0, "yearly")
	require.WithinDuration(p, p.local("2026-04-30 20:00"), *late.balance().NextResetAt, 10*time.Minute)
	p.at("2026-04-10 09:00")
	c.has("subscription 1920, pack 5000")
	p.at("2026-04-10 11:00")
	c.has("subscription 2000, pack 0")
	c.buy("extra-5000")
	p.at("2026-05-10 11:00")
	c.has("subscription 2000, pack 0")
}

func packNeedsSubscription(p *player) {
	p.at("2026-03-10 10:00")
	c := p.customer("stranger")
	require.Empty(p, c.offered(), "for sale without a subscription")
	a := c.order("extra-200", nil)
	require.Equal(p, []any{http.StatusForbidden, "subscription-required"}, []any{a.status, a.code()}, "without a subscription")
	c.subscribe("starter", 0, "monthly")
	c.buy("extra-200")
	pro := p.customer("pro")
	pro.subscribe("pro", 0, "yearly")
	pro.buy("extra-200")
	require.Equal(p, "extra-200 extra-1000", c.offered())
	prices := map[string]int64{"extra-200": 6_00, "extra-1000": 25_00, "extra-5000": 100_00}
	for _, o := range pro.offers() {
		require.Equal(p, prices[o.Name], o.NetMinor, o.Name)
	}
	require.Len(p, pro.offers(), 3)
	c.must("DELETE", c.path("/subscription?at=period_end"), nil)
	p.at("2026-04-10 09:00")
	c.buy("extra-200")
	p.at("2026-04-11 10:00")
	a = c.order("extra-200", nil)
	require.Equal(p, []any{http.StatusForbidden, "subscription-required"}, []any{a.status, a.code()}, "%s", a.body)
	c.has("subscription 0, pack 0")
}

func packIsShown(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	c.buy("extra-1000")
	c.spendStarter()
	c.used("pro", 38)
	c.has("subscription 0, pack 962")
	require.NotNil(p, c.bucket("pack").NextExpiry)
}

func totalIsShown(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "pro", 0)
	c.buy("extra-1000")
	total := c.balance().Available
	require.NotNil(p, total, "one number")
	require.Equal(p, "3000", total.String())
	a := c.tool("ultra")
	require.Equal(p, "2920", a.remaining(), "with each answer, too")
}

func subscriptionFirst(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	c.buy("extra-200")
	c.used("ultra", 80)
	c.has("subscription 420, pack 200")
	for range 5 {
		c.used("ultra", 80)
	}
	c.has("subscription 20, pack 200")
	c.used("pro", 38) // 20 of the subscription, then 18 of the pack
	c.has("subscription 0, pack 182")
}

func packNotRefunded(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "pro", 0)
	for _, pack := range [...]string{"extra-200", "extra-1000", "extra-5000"} {
		bought := c.buy(pack)
		a := c.control("POST", c.path("/revocations"), fields{
			"purchase_ref": bought.Ref, "external_ref": c.ref(), "reason": "refund",
		})
		require.Equal(p, []any{http.StatusConflict, "not-refundable"}, []any{a.status, a.code()}, "%s: %s", pack, a.body)
	}
	c.has("subscription 2000, pack 6200")
}

func trialsAreFree(p *player) {
	c := p.customer("visitor") // without subscription or credit
	for range 20 {
		a := c.ask("POST", "/3d/trial", fields{})
		require.Equal(p, http.StatusOK, a.status, "%s", a.body)
	}
	require.Equal(p, 20, c.calls())
	require.Equal(p, http.StatusPaymentRequired, c.tool("turbo").status, "what is priced is not")
}

func priceList(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "pro", 0)
	left := 2000
	for _, tool := range [...]struct {
		name  string
		price int
	}{{"turbo", 20}, {"pro", 38}, {"ultra", 80}, {"background-removal", 1}, {"style-transfer", 15}} {
		c.used(tool.name, tool.price)
		left -= tool.price
	}
	c.has(fmt.Sprintf("subscription %d, pack 0", left))
	require.Equal(p, http.StatusBadRequest, c.tool("mega").status, "what is not listed has no price")
	require.Equal(p, http.StatusNotFound, c.ask("POST", "/3d/other", fields{}).status, "nor has another tool")
}

func addedInstantly(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	bought := c.buy("extra-200")
	require.True(p, bought.Applied)
	a := c.ask("GET", "/credits/balance", nil)
	require.Equal(p, "no-store", a.header.Get("Cache-Control"), "a page that asks again is told anew")
	c.has("subscription 500, pack 200")
	shown := decode[purchase](p, c.must("GET", "/v1/purchases/"+bought.Ref, nil))
	require.Equal(p, "granted", shown.State)
}

// addedLater is the other half of C13, for a world of its own: Redis is away while the order comes.
func addedLater(p *player) {
	c := p.member("maker", "starter", 0)
	c.has("subscription 500, pack 0")
	require.NoError(p, p.world.world.redis.Pause())
	a := c.order("extra-200", nil)
	require.NoError(p, p.world.world.redis.Resume())
	require.Equal(p, http.StatusAccepted, a.status, "it comes later: %s", a.body)
	ref := decode[purchase](p, a).Ref
	for deadline := time.Now().Add(patience); decode[purchase](p, c.must("GET", "/v1/purchases/"+ref, nil)).State != "granted"; {
		require.True(p, time.Now().Before(deadline), "%s is not granted", ref)
	}
	c.has("subscription 500, pack 200")
}

func packForAllTools(p *player) {
	p.at("2026-03-10 10:00")
	c := p.member("maker", "starter", 0)
	c.buy("extra-200")
	c.spendStarter()
	c.has("subscription 0, pack 200")
	c.used("turbo", 20)
	c.used("pro", 38)
	c.used("ultra", 80)
	c.used("background-removal", 1)
	c.used("style-transfer", 15)
	c.has("subscription 0, pack 46")
}
