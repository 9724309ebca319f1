package main_test

import (
	"net/http"

	"github.com/stretchr/testify/require"
)

// rulesB are those of the AI Background Studio. What is charged, here; contingents and the promotion are in
// seed_rules_cycle_test.go, packs and what pages show in seed_rules_packs_test.go.
func rulesB() []rule {
	return []rule{
		{"B1", "each press of the apply button uses a credit", eachPressCharges},
		{"B2", "a background is needed; a logo alone cannot be applied", noLogoAlone},
		{"B3", "one credit for background only, and for background and logo", logoCostsNothingMore},
		{"B4", "one credit to apply again with other settings", againCharges},
		{"B5", "going back to the original is free", revertIsFree},
		{"B6", "reporting a faulty image is free, also again", reportIsFree},
		{"B7", "three photos are three credits", batchIsPerPhoto},
		{"B8", "background, then logo: two credits for each photo", twoStepsAreTwo},
		{"B9", "moving the logo afterwards is another credit", movingCharges},
		{"B10", "the contingent depends on package and slots", contingentBySlots},
		{"B11", "Premium is unlimited, with a fair-use cap", premiumIsUnlimited},
		{"B12", "Professional Plus: slots × 10 a month", plusIsTen},
		{"B13", "Professional: slots × 5 a month", professionalIsFive},
		{"B14", "Basic: none included", basicHasNone},
		{"B15", "monthly credits reset on day 1 of each month", resetsOnDayOne},
		{"B16", "unused monthly credits do not carry over", nothingCarriesOver},
		{"B17", "the reset date is shown, and waiting for it advised", resetIsShown},
		{"B18", "launch promotion: bonus credits for four weeks", promotionForFourWeeks},
		{"B19", "launch credits are used first", promotionFirst},
		{"B20", "launch credits: Professional Plus slots × 10 a month, others none", promotionAmount},
		{"B21", "the window is fixed by the launch; who joins late gets fewer days", lateJoiner},
		{"B22", "the window may overlap two monthly cycles", promotionOverTwoCycles},
		{"B23", "no credit, no action", nothingAtZero},
		{"B24", "nothing is charged or bought by itself", nothingByItself},
		{"B25", "an extra contingent can be bought at any time", buyWhenOut},
		{"B26", "purchased credits are valid for one year each", validOneYear},
		{"B27", "always exactly three packs to choose from", exactlyThreePacks},
		{"B28", "larger packs are cheaper by the credit", largerIsCheaper},
		{"B29", "no further discount", noFurtherDiscount},
		{"B30", "which packs depends on the subscription", packsByPlan},
		{"B31", "everything is billed by invoice", billedByInvoice},
		{"B32", "launch, then monthly, then purchased", drainOrder},
		{"B33", "paid credit is never used while free credit is there", freeFirst},
		{"B34", "the header shows the balance", headerShowsBalance},
		{"B35", "the billing page shows the breakdown", breakdownIsShown},
	}
}

// payer is a customer of the studio that has bought 100 credits, and has no others.
func (p *player) payer() *seedAccount {
	c := p.member("agency", "basic", 0)
	c.buy("basic-100")
	c.has("promo 0, monthly 0, purchased 100")
	return c
}

func eachPressCharges(p *player) {
	c := p.payer()
	c.applied(1)
	c.applied(1) // the same photo, the same background
	c.has("promo 0, monthly 0, purchased 98")
	require.Len(p, c.history("commit", 2), 2)
}

func noLogoAlone(p *player) {
	c := p.payer()
	logo := batch(1)
	logo.Background, logo.Logo = "", "acme"
	for _, path := range [...]string{"/studio/apply", "/credits/quote/studio/apply"} {
		a := c.ask("POST", path, logo)
		require.Equal(p, []any{http.StatusBadRequest, "invalid-request"}, []any{a.status, a.code()}, "%s: %s", path, a.body)
		require.Contains(p, string(a.body), "a logo alone cannot be applied")
		require.Contains(p, string(a.body), `"param":"body.background"`)
	}
	a := c.form("/studio/apply", filePart{"photos", "1.png", "x"}, filePart{"logo", "logo.png", "x"})
	require.Equal(p, http.StatusBadRequest, a.status, "nor as a form: %s", a.body)
	a = c.ask("POST", "/studio/logo", logo)
	require.Equal(p, []any{http.StatusNotFound, "unpriced-route"}, []any{a.status, a.code()}, "and there is no such operation")
	require.Zero(p, c.calls(), "the studio was not asked")
	for _, background := range [...]filePart{{"background", "", "#dde7f0"}, {"background", "wall.png", "x"}} {
		a = c.form("/studio/apply", filePart{"photos", "1.png", "x"}, background)
		require.Equal(p, []any{http.StatusOK, "1"}, []any{a.status, a.charged()}, "%s", a.body)
	}
	c.has("promo 0, monthly 0, purchased 98")
}

func logoCostsNothingMore(p *player) {
	c := p.payer()
	c.applied(1)
	both := batch(1)
	both.Logo = "acme"
	require.Equal(p, "1", c.ask("POST", "/studio/apply", both).charged())
	c.has("promo 0, monthly 0, purchased 98")
}

func againCharges(p *player) {
	c := p.payer()
	c.applied(1)
	again := batch(1)
	again.Background = "#000000"
	require.Equal(p, "1", c.ask("POST", "/studio/apply", again).charged(), "again, with another background")
	again.Logo = "acme"
	require.Equal(p, "1", c.ask("POST", "/studio/apply", again).charged(), "again, with another logo")
	c.has("promo 0, monthly 0, purchased 97")
}

func revertIsFree(p *player) {
	c := p.payer()
	c.applied(1)
	for range 3 {
		a := c.ask("POST", "/studio/revert", batch(1))
		require.Equal(p, http.StatusOK, a.status, "%s", a.body)
	}
	c.has("promo 0, monthly 0, purchased 99")
	a := p.member("poor", "basic", 0).ask("POST", "/studio/revert", batch(1))
	require.Equal(p, http.StatusOK, a.status, "free at a balance of 0, too: %s", a.body)
}

func reportIsFree(p *player) {
	c := p.payer()
	c.applied(1)
	for range 3 {
		a := c.ask("POST", "/studio/report", photo{"photo-1"})
		require.Equal(p, http.StatusOK, a.status, "%s", a.body)
	}
	c.has("promo 0, monthly 0, purchased 99")
	a := p.member("poor", "basic", 0).ask("POST", "/studio/report", photo{"photo-1"})
	require.Equal(p, http.StatusOK, a.status, "free at a balance of 0, too: %s", a.body)
}

func batchIsPerPhoto(p *player) {
	c := p.payer()
	c.applied(3)
	c.applied(7)
	require.Equal(p, http.StatusBadRequest, c.apply(51).status, "50 photos in one request, at most")
	require.Equal(p, "2", c.ask("POST", "/studio/apply", batch(3), headerFail, "1").charged(), "one of three failed")
	c.has("promo 0, monthly 0, purchased 88")
	a := c.form("/studio/apply", filePart{"photos", "1.png", "x"}, filePart{"photos", "2.png", "x"}, filePart{"photos", "3.png", "x"},
		filePart{"background", "", "#dde7f0"})
	require.Equal(p, "3", a.charged(), "three photos of a form: %s", a.body)
	c.has("promo 0, monthly 0, purchased 85")
}

func twoStepsAreTwo(p *player) {
	c := p.payer()
	c.applied(3)
	logo := batch(3)
	logo.Logo = "acme"
	require.Equal(p, "3", c.ask("POST", "/studio/apply", logo).charged())
	c.has("promo 0, monthly 0, purchased 94")
}

func movingCharges(p *player) {
	c := p.payer()
	for _, logo := range [...]string{"acme, top", "acme, bottom"} {
		moved := batch(1)
		moved.Logo = logo
		require.Equal(p, "1", c.ask("POST", "/studio/apply", moved).charged())
	}
	c.has("promo 0, monthly 0, purchased 98")
}

func drainOrder(p *player) {
	p.at("2026-03-20 09:00") // while the promotion runs
	c := p.member("agency", "professional_plus", 1)
	c.buy("plus-50")
	c.has("promo 10, monthly 10, purchased 50")
	c.applied(7)
	c.has("promo 3, monthly 10, purchased 50")
	c.applied(8)
	c.has("promo 0, monthly 5, purchased 50")
	c.applied(8)
	c.has("promo 0, monthly 0, purchased 47")
	var lines []string
	for _, l := range c.history("commit", 3)[0].Lines {
		lines = append(lines, l.Bucket+" "+l.Credits.String())
	}
	require.ElementsMatch(p, []string{"monthly -5", "purchased -3"}, lines, "one request may take from two")
}

func freeFirst(p *player) {
	p.at("2026-03-20 09:00")
	c := p.member("agency", "professional_plus", 1)
	c.buy("plus-50")
	for free := 20; free > 0; free -= 4 {
		c.applied(4)
		require.Equal(p, "50", c.bucket("purchased").Available.String(), "%d free ones are left", free-4)
	}
	c.applied(4)
	require.Equal(p, "46", c.bucket("purchased").Available.String())
	a := c.ask("POST", "/studio/apply", batch(4), headerFail, "4")
	require.Equal(p, "0", a.charged())
	require.Equal(p, "46", c.bucket("purchased").Available.String(), "what is not delivered goes back to where it was taken from")
}
