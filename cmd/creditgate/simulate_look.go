package main

import (
	"fmt"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// comparison collects what differs between an account and what was expected of it.
type comparison struct {
	account string
	wrong   []string
}

func (c *comparison) text(what, have, want string) {
	if have != want {
		c.wrong = append(c.wrong, fmt.Sprintf("%s of %s is %s, must be %s", what, c.account, have, want))
	}
}

// credits compares amounts; want nil is not looked at.
func (c *comparison) credits(what string, have meter.Credits, want *meter.Credits) {
	if want != nil {
		c.text(what, have.String(), want.String())
	}
}

// compareStanding is what differs, a line each.
func compareStanding(want policy.Look, have standing, zone *time.Location) []string {
	c := comparison{account: want.Account}
	if want.Available != nil || want.Unlimited {
		c.text("available", amountText(have.Available), amountText(want.Available))
	}
	c.credits("held", have.Held, want.Held)
	c.credits("debt", have.Debt, want.Debt)
	for _, b := range want.Buckets {
		must := b.Available.String()
		if b.Unlimited {
			must = amountText(nil)
		}
		c.text(b.Bucket, amountOf(have, b.Bucket), must)
	}
	if want.Plan != nil {
		plan := ""
		if have.Plan != nil {
			plan = *have.Plan
		}
		c.text("plan", orNone(plan), orNone(*want.Plan))
	}
	if want.NextReset != nil {
		c.text("next_reset", momentText(have.NextResetAt, zone), momentText(given(*want.NextReset), zone))
	}
	if want.NextResetCredits != nil {
		credits := new(meter.Credits)
		if have.NextReset != nil {
			credits = have.NextReset.Credits
		}
		c.text("next_reset_credits", amountText(credits), want.NextResetCredits.String())
	}
	if want.FairUseLeft != nil {
		left := "nothing, for no bucket is unlimited"
		for _, b := range have.Buckets {
			if b.FairUse != nil {
				left = b.FairUse.Left.String()
			}
		}
		c.text("fair_use_left", left, want.FairUseLeft.String())
	}
	return c.wrong
}

// amountOf is what is available in a bucket.
func amountOf(s standing, bucket string) string {
	for _, b := range s.Buckets {
		if b.Name == bucket {
			return amountText(b.Available)
		}
	}
	return "not there"
}

// amountText is an amount; nil is without limit.
func amountText(c *meter.Credits) string {
	if c == nil {
		return "unlimited"
	}
	return c.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func momentText(t *time.Time, zone *time.Location) string {
	if t == nil || t.IsZero() {
		return "none"
	}
	return t.In(zone).Format("2006-01-02T15:04:05")
}
