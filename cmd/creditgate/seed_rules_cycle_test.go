package main_test

import (
	"net/http"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func contingentBySlots(p *player) {
	p.member("small", "professional_plus", 5).has("promo 0, monthly 50, purchased 0")
	p.member("large", "professional_plus", 12).has("promo 0, monthly 120, purchased 0")
	p.member("other", "professional", 5).has("promo 0, monthly 25, purchased 0")
}

// The cap of 20000 is used in 400 batches of 50, by eight at a time.
func premiumIsUnlimited(p *player) {
	c := p.member("agency", "premium", 3)
	b := c.bucket("monthly")
	require.True(p, b.Unlimited)
	require.Nil(p, b.Available, "no number before people's eyes")
	require.Nil(p, c.balance().Available)
	require.NotNil(p, b.FairUse)
	require.Equal(p, "20000", b.FairUse.Cap.String())
	require.Equal(p, "unlimited", c.apply(50).remaining())
	var all sync.WaitGroup
	ok := make(chan bool, 400)
	for worker := range 8 {
		all.Go(func() {
			defer func() { _ = recover() }() // a failed request is one that is not counted
			mine := *c
			for range (399 + 7 - worker) / 8 {
				ok <- mine.apply(50).status == http.StatusOK
			}
		})
	}
	all.Wait()
	close(ok)
	passed := 1
	for yes := range ok {
		if yes {
			passed++
		}
	}
	require.Equal(p, 400, passed)
	require.Equal(p, "0", c.bucket("monthly").FairUse.Left.String())
	a := c.apply(1)
	require.Equal(p, []any{http.StatusTooManyRequests, "fair-use-exceeded"}, []any{a.status, a.code()}, "%s", a.body)
	resets := decode[struct {
		ResetsAt time.Time `json:"resets_at"`
	}](p, a)
	require.True(p, p.local("2026-04-01 00:00").Equal(resets.ResetsAt), "%s", a.body)
}

func plusIsTen(p *player) {
	c := p.member("agency", "professional_plus", 50)
	c.has("promo 0, monthly 500, purchased 0")
	c.applied(40)
	p.at("2026-05-01 01:00")
	require.Equal(p, "500", c.bucket("monthly").Available.String(), "and again")
}

func professionalIsFive(p *player) {
	c := p.member("agency", "professional", 50)
	c.has("promo 0, monthly 250, purchased 0")
	p.at("2026-04-01 01:00")
	c.has("promo 0, monthly 250, purchased 0")
}

func basicHasNone(p *player) {
	c := p.member("agency", "basic", 5)
	c.has("promo 0, monthly 0, purchased 0")
	require.Equal(p, http.StatusPaymentRequired, c.apply(1).status)
	p.at("2026-04-01 01:00")
	require.Equal(p, http.StatusPaymentRequired, c.apply(1).status, "nor in the next month")
	c.buy("basic-100")
	c.applied(1)
	c.has("promo 0, monthly 0, purchased 99")
}

func resetsOnDayOne(p *player) {
	c := p.member("agency", "professional", 4)
	c.applied(12)
	for _, month := range [...]struct{ before, at string }{
		{"2026-03-31 23:00", "2026-04-01 00:00"},
		{"2026-04-30 23:00", "2026-05-01 00:00"},
		{"2026-05-31 23:00", "2026-06-01 00:00"},
	} {
		p.at(month.before)
		c.has("promo 0, monthly 8, purchased 0")
		require.True(p, p.local(month.at).Equal(*c.balance().NextResetAt))
		p.at(month.at)
		c.has("promo 0, monthly 20, purchased 0")
		c.applied(12)
	}
}

func nothingCarriesOver(p *player) {
	c := p.member("agency", "professional", 10)
	p.at("2026-03-20 09:00")
	c.applied(30)
	c.has("promo 0, monthly 20, purchased 0")
	p.at("2026-04-01 00:00")
	c.has("promo 0, monthly 50, purchased 0")
	lapses := c.history("lapse", 1)
	require.Equal(p, "-20", lapses[0].Lines[0].Credits.String(), "what was left is gone")
}

func resetIsShown(p *player) {
	c := p.member("agency", "professional", 2)
	b := c.balance()
	require.NotNil(p, b.NextReset)
	require.True(p, p.local("2026-04-01 00:00").Equal(b.NextReset.At))
	require.Equal(p, "10", b.NextReset.Credits.String())
	c.applied(10)
	p.advised(c, "2026-03-24 12:00", "buy") // the reset is more than 7 days away
	p.advised(c, "2026-03-25 12:00", "wait_for_reset")
}

// advised is what c is told by a refusal, at some time.
func (p *player) advised(c *seedAccount, at, advice string) {
	p.at(at)
	a := c.apply(2)
	require.Equal(p, http.StatusPaymentRequired, a.status)
	refusal := decode[struct {
		NextResetAt time.Time `json:"next_reset_at"`
		Advice      struct {
			Action string `json:"action"`
		} `json:"advice"`
	}](p, a)
	require.True(p, p.local("2026-04-01 00:00").Equal(refusal.NextResetAt), "%s", a.body)
	require.Equal(p, advice, refusal.Advice.Action, "%s: %s", at, a.body)
}

func promotionForFourWeeks(p *player) {
	c := p.member("agency", "professional_plus", 1)
	c.has("promo 0, monthly 10, purchased 0")
	p.at("2026-03-16 00:00")
	c.has("promo 10, monthly 10, purchased 0")
	p.at("2026-04-12 23:00")
	c.has("promo 20, monthly 10, purchased 0") // of both months that it touches
	p.at("2026-04-13 00:00")
	c.has("promo 0, monthly 10, purchased 0")
}

func promotionFirst(p *player) {
	p.at("2026-03-20 09:00")
	c := p.member("agency", "professional_plus", 1)
	c.has("promo 10, monthly 10, purchased 0")
	c.applied(3)
	c.has("promo 7, monthly 10, purchased 0")
	p.at("2026-04-02 09:00") // monthly resets sooner than the promotion ends, and waits all the same
	c.has("promo 17, monthly 10, purchased 0")
	c.applied(1)
	c.has("promo 16, monthly 10, purchased 0")
}

func promotionAmount(p *player) {
	p.at("2026-03-20 09:00")
	p.member("plus", "professional_plus", 7).has("promo 70, monthly 70, purchased 0")
	p.member("professional", "professional", 7).has("promo 0, monthly 35, purchased 0")
	p.member("basic", "basic", 7).has("promo 0, monthly 0, purchased 0")
}

func lateJoiner(p *player) {
	p.at("2026-04-06 12:00") // a week before the end
	c := p.member("late", "professional_plus", 1)
	c.has("promo 10, monthly 10, purchased 0")
	expiry := c.bucket("promo").NextExpiry
	require.NotNil(p, expiry)
	require.True(p, p.local("2026-04-13 00:00").Equal(expiry.At), "not four weeks from joining")
	p.at("2026-04-13 00:00")
	c.has("promo 0, monthly 10, purchased 0")
	p.member("later", "professional_plus", 1).has("promo 0, monthly 10, purchased 0")
}

func promotionOverTwoCycles(p *player) {
	c := p.member("agency", "professional_plus", 1)
	p.at("2026-03-16 00:00") // in the middle of a month
	c.applied(10)
	c.has("promo 0, monthly 10, purchased 0")
	p.at("2026-03-31 23:00")
	c.has("promo 0, monthly 10, purchased 0")
	p.at("2026-04-01 00:00")
	c.has("promo 10, monthly 10, purchased 0")
}

func nothingAtZero(p *player) {
	require.Equal(p, http.StatusPaymentRequired, p.member("poor", "basic", 0).apply(1).status, "no credit, no action")
	c := p.member("agency", "professional", 1)
	c.applied(5)
	calls := c.calls()
	a := c.apply(1)
	require.Equal(p, []any{http.StatusPaymentRequired, "insufficient-credits"}, []any{a.status, a.code()}, "no action at zero")
	require.Equal(p, "false", a.header.Get("X-Should-Retry"))
	require.Equal(p, calls, c.calls(), "the studio was not asked")
	c.has("promo 0, monthly 0, purchased 0")
	p.at("2026-03-20 12:00")
	require.Equal(p, http.StatusPaymentRequired, c.apply(1).status, "neither a purchase nor a reset, so no action")
	c.buy("plus-50")
	c.applied(50)
	require.Equal(p, http.StatusPaymentRequired, c.apply(1).status)
	p.at("2026-04-01 00:00")
	c.applied(2)
}

func nothingByItself(p *player) {
	c := p.member("agency", "professional", 1)
	c.applied(5)
	c.boughtNothing()
	require.Equal(p, http.StatusPaymentRequired, c.apply(1).status)
	for _, day := range [...]string{"2026-03-16 12:00", "2026-03-25 12:00"} {
		p.at(day)
		c.boughtNothing()
		require.Equal(p, http.StatusPaymentRequired, c.apply(1).status)
		c.has("promo 0, monthly 0, purchased 0")
	}
	require.Len(p, c.history("commit", 1), 1)
}

// boughtNothing is about credit that can only have been bought.
func (c *seedAccount) boughtNothing() {
	require.Equal(c, "0", c.bucket("purchased").Available.String(), "purchased credit, and nobody bought any")
	for _, g := range c.history("grant", 1) {
		require.NotEqual(c, "purchased", g.Lines[0].Bucket, "a purchase by itself")
	}
}
