package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

func actNames() []string {
	return []string{
		"account", "subscribe", "cancel", "purchase", "pay", "refund", "reverse", "override", "grant", "request", "expect",
	}
}

// decodeAct reads one action; nil after a mistake.
func (on *stage) decodeAct(name string, i item, step *Step) Act {
	if name == "account" {
		return MakeAccount{fields{name: i}.name(name)}
	}
	f, ok := on.actFields(name, i)
	if !ok {
		return nil
	}
	if out, ok := f["expect"]; ok {
		step.Want = decodeOutcome(out)
	}
	own := fmt.Sprintf("%s-%d", name, step.Line) // a reference where none is written
	switch name {
	case "subscribe":
		return on.decodeSubscribe(f)
	case "cancel":
		return Cancel{Account: f.name("account"), Now: f.choice("at", "period_end", "now") == "now"}
	case "purchase":
		return on.decodeBuy(f, own, step.Want)
	case "pay":
		return Pay{
			Ref: on.above(f, "ref", "purchase", step.Want), Report: own, Overdue: f.choice("status", "paid", "overdue") == "overdue",
			At: on.past(f, "at", step.Want),
		}
	case "refund":
		r := Refund{
			Account: f.name("account"), Purchase: on.above(f, "purchase", "purchase", step.Want), Ref: f.nameOr("ref", own),
			Reason: f.choice("reason", "refund", "chargeback", "error"), Credits: f.credits("credits"),
		}
		on.named["refund"] = append(on.named["refund"], r.Ref)
		return r
	case "reverse":
		return Reverse{Account: f.name("account"), Ref: on.above(f, "ref", "refund", step.Want)}
	case "override":
		return on.decodeOverride(f, own)
	case "grant":
		return GiveCredit{
			Account: f.name("account"), Bucket: on.bucket(f["bucket"]), Ref: f.nameOr("ref", own),
			Credits: f.credits("credits"), ExpiresAt: on.optionalMoment(f["expires_at"]),
		}
	case "request":
		return on.decodeAsk(f, i)
	}
	return on.decodeLook(f)
}

// actFields reads the keys of an action, and reports those that must be there.
func (on *stage) actFields(name string, i item) (fields, bool) {
	var must, may string
	switch name {
	case "subscribe":
		must, may = "account plan", "slots period starts_at anchor_at expect"
	case "cancel":
		must, may = "account", "at expect"
	case "purchase":
		must, may = "account pack", "quantity ref net_minor currency purchased_at paid_at expect"
	case "pay":
		must, may = "ref", "status at expect"
	case "refund":
		must, may = "account purchase", "credits reason ref expect"
	case "reverse":
		must, may = "account ref", "expect"
	case "override":
		must, may = "account kind target credits", "from until ref expect"
	case "grant":
		must, may = "account bucket credits", "expires_at ref expect"
	case "request":
		must, may = "account", "operation method path n body times key answer charged expect"
	case "expect":
		must, may = "account", "available held debt buckets plan next_reset next_reset_credits fair_use_left"
	}
	required := strings.Fields(must)
	f, ok := i.fields("a mapping with "+strings.Join(required, ", "), append(required, strings.Fields(may)...)...)
	if !ok {
		return nil, false
	}
	for _, key := range required {
		if _, there := f[key]; !there {
			i.failf("%s is missing", key)
			ok = false
		}
	}
	return f, ok
}

func (on *stage) decodeSubscribe(f fields) Act {
	s := Subscribe{
		Account: f.name("account"), Plan: f.name("plan"), Slots: uint32(f.whole("slots", 0, SlotsMax)),
		Yearly:   f.choice("period", "monthly", "yearly") == "yearly",
		StartsAt: on.optionalMoment(f["starts_at"]), AnchorAt: on.optionalMoment(f["anchor_at"]),
	}
	if _, ok := on.policy.Plan(s.Plan); !ok && s.Plan != "" {
		f["plan"].failf("%s", unknown(s.Plan, "a plan", planNames(on.policy)))
	}
	return s
}

// decodeBuy takes packs that the policy does not have, too: a story may show that they are refused.
func (on *stage) decodeBuy(f fields, own string, want Outcome) Act {
	b := Buy{
		Account: f.name("account"), Pack: f.name("pack"), Ref: f.nameOr("ref", own),
		Quantity: uint32(max(1, f.whole("quantity", 1, 1000))), NetMinor: -1,
		BoughtAt: on.past(f, "purchased_at", want), PaidAt: on.past(f, "paid_at", want),
	}
	on.named["purchase"] = append(on.named["purchase"], b.Ref)
	if _, ok := f["net_minor"]; ok {
		b.NetMinor = f.whole("net_minor", 0, 1<<53)
	}
	if c, ok := f["currency"]; ok {
		b.Currency = word(c, "a currency such as EUR")
	}
	return b
}

func (on *stage) decodeOverride(f fields, own string) Act {
	return OverrideTerms{
		Account: f.name("account"), Ref: f.nameOr("ref", own), Kind: f.choice("kind", "contingent", "fair_use", "unit_credits"),
		Target: f.name("target"), Credits: f.credits("credits"),
		From: on.optionalMoment(f["from"]), Until: on.optionalMoment(f["until"]),
	}
}

// decodeAsk reads a request: where it goes, what is in it, and what the backend does with it.
func (on *stage) decodeAsk(f fields, i item) Act {
	a := Ask{Account: f.name("account"), Times: uint32(max(1, f.whole("times", 1, timesMax))), Key: f.nameOr("key", "")}
	op, named := f["operation"]
	path, routed := f["path"]
	switch {
	case named == routed:
		i.failf("write operation, or method and path")
	case named:
		on.operation(op, &a)
	default:
		a.Path, a.Method = word(path, "a path such as /v1/images"), "POST"
		a.Name = a.Path
	}
	if m, ok := f["method"]; ok {
		a.Method = word(m, "a method such as POST")
	}
	if _, ok := f["charged"]; ok {
		c := f.credits("charged")
		a.Charged = &c
	}
	a.N = uint32(f.whole("n", 1, unitsMax))
	written := f.written()
	a.Body = f.body(a.N, written)
	if len(written) > 0 {
		a.Written = string(f.body(0, written))
	}
	if answer, ok := f["answer"]; ok {
		a.Answer = decodeAnswer(answer)
	}
	return a
}

func (on *stage) operation(i item, a *Ask) {
	name := word(i, "the name of an operation")
	var names []string
	for _, o := range on.policy.Operations {
		names = append(names, o.Name)
		if o.Name != name {
			continue
		}
		a.Name, a.Method, a.Path = name, o.Method, o.Path
		if strings.Contains(o.Path, "{") {
			i.failf("%s is %s, which has a name in braces; write method and path instead", name, o.Path)
		}
		return
	}
	if name != "" {
		i.failf("%s", unknown(name, "an operation", names))
	}
}

func planNames(p *Policy) []string {
	names := make([]string, len(p.Plans))
	for n, plan := range p.Plans {
		names[n] = plan.Name
	}
	return names
}

// photo is an item of a batch, as the examples' operations count them.
type photo struct {
	ID string `json:"id"`
}

// written is what is written out of a body, nil for nothing.
func (f fields) written() (out map[string]any) {
	if i, ok := f["body"]; ok {
		if err := yaml.NodeToValue(i.node, &out); err != nil {
			i.failf("must be a mapping, which is sent as JSON")
		}
	}
	return out
}

// body is what is sent: n items in the shapes of the examples, with what is written out put over it. Nothing at all
// is an empty object.
func (f fields) body(n uint32, written map[string]any) []byte {
	out := map[string]any{}
	if n > 0 {
		photos := make([]photo, n)
		for k := range photos {
			photos[k].ID = strconv.Itoa(k + 1)
		}
		out["n"], out["photos"], out["background"] = n, photos, "#ffffff"
	}
	maps.Copy(out, written)
	b, err := json.Marshal(out)
	if err != nil {
		f["body"].failf("cannot be written as JSON: %s", err)
	}
	return b
}

// decodeAnswer reads ok, fail, timeout, 2 of 3, or a mapping.
func decodeAnswer(i item) Answer {
	if _, isText := i.text(); !isText {
		keys, ok := i.fields("ok, fail, timeout, 2 of 3, or {status, body}", "status", "body")
		if !ok {
			return Answer{}
		}
		f := fields(keys)
		a := Answer{Kind: AnswersSo, Status: 200, Body: f.body(0, f.written())}
		if _, ok := f["status"]; ok {
			a.Status = int(f.whole("status", 200, 599))
		}
		return a
	}
	text := word(i, "ok, fail, timeout or 2 of 3")
	var k, n uint32
	switch _, err := fmt.Sscanf(text, "%d of %d", &k, &n); {
	case text == "ok":
		return Answer{}
	case text == "fail":
		return Answer{Kind: AnswersFail}
	case text == "timeout":
		return Answer{Kind: AnswersNone}
	case err == nil && k <= n && n <= unitsMax:
		return Answer{Kind: AnswersPart, Delivered: k, Of: n}
	}
	i.failf("%q is not an answer; write ok, fail, timeout, 2 of 3, or {status: 200, body: {…}}", text)
	return Answer{}
}

func (on *stage) decodeLook(f fields) Act {
	l := Look{Account: f.name("account"), Held: f.optionalCredits("held"), Debt: f.optionalCredits("debt")}
	l.NextResetCredits, l.FairUseLeft = f.optionalCredits("next_reset_credits"), f.optionalCredits("fair_use_left")
	if i, ok := f["available"]; ok {
		var c BucketLook
		if on.amount(i, &c); !c.Unlimited {
			l.Available = &c.Available
		}
		l.Unlimited = c.Unlimited
	}
	if i, ok := f["plan"]; ok {
		plan := word(i, "a plan, or none")
		if plan == "none" {
			plan = ""
		} else if _, known := on.policy.Plan(plan); !known {
			i.failf("%s", unknown(plan, "a plan", append(planNames(on.policy), "none")))
		}
		l.Plan = &plan
	}
	if i, ok := f["next_reset"]; ok {
		at, _ := on.momentOrNone(i)
		l.NextReset = &at
	}
	if i, ok := f["buckets"]; ok {
		entries, _ := i.mapping("a mapping from bucket to credits, such as {monthly: 50}")
		for _, e := range entries {
			c := BucketLook{Bucket: e.key}
			if !slices.Contains(on.buckets, e.key) {
				e.at = e.keyAt
				e.failf("%s", unknown(e.key, "a bucket", on.buckets))
			}
			on.amount(e.item, &c)
			l.Buckets = append(l.Buckets, c)
		}
	}
	return l
}
