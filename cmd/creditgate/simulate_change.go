package main

import (
	"fmt"
	"net/http"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// change is a request to the control plane.
type change struct {
	method, path string
	body         any // one of the structs below
}

// The bodies of changes.
type (
	subscribeBody struct {
		Plan     string     `json:"plan"`
		Slots    uint32     `json:"slots,omitempty"`
		Period   string     `json:"period"`
		StartsAt *time.Time `json:"starts_at,omitempty"`
		AnchorAt *time.Time `json:"anchor_at,omitempty"`
	}
	buyBody struct {
		Pack     string `json:"pack"`
		Quantity uint32 `json:"quantity"`
		Ref      string `json:"external_ref"`
		NetMinor *int64 `json:"net_minor,omitempty"`
		Currency string `json:"currency,omitempty"`

		PurchasedAt *time.Time `json:"purchased_at,omitempty"`
		PaidAt      *time.Time `json:"paid_at,omitempty"`
	}
	payBody struct {
		Status string     `json:"status"`
		Ref    string     `json:"external_ref"`
		At     *time.Time `json:"at,omitempty"`
	}
	refundBody struct {
		Purchase string         `json:"purchase_ref"`
		Credits  *meter.Credits `json:"credits,omitempty"`
		Ref      string         `json:"external_ref"`
		Reason   string         `json:"reason"`
	}
	reverseBody struct {
		Ref string `json:"external_ref"`
	}
	overrideBody struct {
		Kind    string        `json:"kind"`
		Target  string        `json:"target"`
		Credits meter.Credits `json:"credits"`
		From    *time.Time    `json:"from,omitempty"`
		Until   *time.Time    `json:"until,omitempty"`
	}
	grantBody struct {
		Bucket    string        `json:"bucket"`
		Credits   meter.Credits `json:"credits"`
		Ref       string        `json:"external_ref"`
		ExpiresAt *time.Time    `json:"expires_at,omitempty"`
	}
)

// changeOf is the request that makes a change. What has no time of its own counts when it is made, a few seconds after
// the story's moment, and so after what the story did before it.
func changeOf(who string, act policy.Act) change {
	account := "/v1/accounts/" + who
	switch a := act.(type) {
	case policy.Subscribe:
		return change{http.MethodPut, account + "/subscription", subscribeBody{
			a.Plan, a.Slots, either(a.Yearly, "yearly", "monthly"), given(a.StartsAt), given(a.AnchorAt),
		}}
	case policy.Cancel:
		return change{http.MethodDelete, account + "/subscription?at=" + either(a.Now, "now", "period_end"), nil}
	case policy.Buy:
		body := buyBody{
			Pack: a.Pack, Quantity: a.Quantity, Ref: a.Ref, Currency: a.Currency,
			PurchasedAt: given(a.BoughtAt), PaidAt: given(a.PaidAt),
		}
		if a.NetMinor >= 0 {
			body.NetMinor = &a.NetMinor
		}
		return change{http.MethodPost, account + "/purchases", body}
	case policy.Pay:
		body := payBody{either(a.Overdue, "overdue", "paid"), a.Report, given(a.At)}
		return change{http.MethodPost, "/v1/purchases/" + a.Ref + "/payment", body}
	case policy.Refund:
		body := refundBody{Purchase: a.Purchase, Ref: a.Ref, Reason: a.Reason}
		if a.Credits > 0 {
			body.Credits = &a.Credits
		}
		return change{http.MethodPost, account + "/revocations", body}
	case policy.Reverse:
		return change{http.MethodPost, account + "/revocations/" + a.Ref + "/reversal", reverseBody{a.Ref + "-reversed"}}
	case policy.OverrideTerms:
		return change{http.MethodPut, account + "/overrides/" + a.Ref, overrideBody{
			a.Kind, a.Target, a.Credits, given(a.From), given(a.Until),
		}}
	case policy.GiveCredit:
		return change{http.MethodPost, account + "/grants", grantBody{a.Bucket, a.Credits, a.Ref, given(a.ExpiresAt)}}
	}
	return change{} // no other act changes anything
}

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// describe says what an act is, for a row of the table.
func describe(act policy.Act) string {
	switch a := act.(type) {
	case policy.MakeAccount:
		return "account"
	case policy.Subscribe:
		return "subscribe " + a.Plan + slotsText(a.Slots) + either(a.Yearly, ", yearly", "")
	case policy.Cancel:
		return "cancel " + either(a.Now, "now", "at period end")
	case policy.Buy:
		return "buy " + either(a.Quantity > 1, fmt.Sprintf("%d × ", a.Quantity), "") + a.Pack +
			dayText(", bought ", a.BoughtAt) + dayText(", paid ", a.PaidAt)
	case policy.Pay:
		return a.Ref + either(a.Overdue, " is overdue", " is paid") + dayText(" since ", a.At)
	case policy.Refund:
		return a.Reason + " of " + either(a.Credits > 0, a.Credits.String()+" of ", "") + a.Purchase
	case policy.Reverse:
		return a.Ref + " is reversed"
	case policy.OverrideTerms:
		return fmt.Sprintf("override %s %s = %s", a.Kind, a.Target, a.Credits)
	case policy.GiveCredit:
		return fmt.Sprintf("grant %s %s", a.Credits, a.Bucket)
	case policy.Ask:
		of := either(a.N > 0, fmt.Sprintf(" of %d", a.N), "") + writtenText(a.Written)
		return a.Name + of + either(a.Times > 1, fmt.Sprintf(" × %d", a.Times), "") + answerText(a.Answer)
	}
	return "expect"
}

// dayText is a local day after a word, nothing where no time is given.
func dayText(word string, at time.Time) string {
	return either(at.IsZero(), "", word+at.Format(time.DateOnly))
}

func slotsText(n uint32) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", 1 slot"
	}
	return fmt.Sprintf(", %d slots", n)
}

// writtenMax is what is shown of a body: as much as tells one request from another.
const writtenMax = 40

func writtenText(body string) string {
	if short := []rune(body); len(short) > writtenMax {
		body = string(short[:writtenMax-1]) + "…"
	}
	return either(body != "", " "+body, "")
}

func answerText(a policy.Answer) string {
	switch a.Kind {
	case policy.AnswersFail:
		return ", which fails"
	case policy.AnswersNone:
		return ", no answer"
	case policy.AnswersPart:
		return fmt.Sprintf(", %d of %d done", a.Delivered, a.Of)
	case policy.AnswersSo:
		return fmt.Sprintf(", answered %d", a.Status)
	default:
		return ""
	}
}
