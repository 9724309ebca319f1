package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"creditgate/meter"
)

func decodeOperations(i item) []*Operation {
	entries, ok := i.mapping("a mapping of operations by name")
	switch {
	case !ok:
		return nil
	case len(entries) == 0:
		i.failf("is empty; describe at least one operation")
	case len(entries) > operationsMax:
		i.failf("has %d operations; %d are the most", len(entries), operationsMax)
	}
	var ops []*Operation
	for _, e := range entries {
		checkName(e.item, e.key)
		o, match := decodeOperation(e.key, e.item)
		if o == nil {
			continue
		}
		for _, other := range ops {
			if o.Path != "" && o.route.overlaps(other.route) {
				match.failf("%s %s also matches requests of %s (%s %s); a request must have one price",
					o.Method, o.Path, other.Name, other.Method, other.Path)
			}
		}
		ops = append(ops, o)
	}
	slices.SortFunc(ops, func(a, b *Operation) int { return cmp.Compare(a.Name, b.Name) })
	return ops
}

// decodeOperation returns the item of match beside the operation, for messages about it.
func decodeOperation(name string, i item) (*Operation, item) {
	keys, ok := i.fields("a mapping with match and credits", "match", "require", "units", "max", "credits", "delivered",
		"at_zero")
	if !ok {
		return nil, i
	}
	o := &Operation{Name: name, fixedUnit: 1}
	match, ok := keys["match"]
	if !ok {
		i.failf("match is missing; write the route, such as match: POST /v1/images")
	} else {
		o.decodeMatch(match)
	}
	credits, ok := keys["credits"]
	if !ok {
		i.failf("credits is missing; write what one unit costs, or 0 if the operation is free")
		return o, match
	}
	o.needs.path = o.params
	o.decodeCredits(credits)
	if o.Free() && credits.number() != "" {
		for _, k := range []string{"require", "units", "max", "delivered"} {
			if extra, ok := keys[k]; ok {
				extra.failf("has no effect on a free operation; remove it, or set credits above 0")
			}
		}
		if zero, ok := keys["at_zero"]; ok {
			o.AtZeroRefuse = zero.choice("pass", "refuse") == "refuse"
		}
		return o, match
	}
	if zero, ok := keys["at_zero"]; ok {
		zero.failf("has no effect on a priced operation, which a balance of 0 refuses anyway; remove it")
	}
	if r, ok := keys["require"]; ok {
		o.decodeRequire(r)
	}
	o.decodeUnits(i, keys)
	if d, ok := keys["delivered"]; ok {
		o.decodeDelivered(d)
	}
	o.needs.path = o.usedParams()
	return o, match
}

func (o *Operation) decodeMatch(i item) {
	text, ok := i.word("a method and a path, such as POST /v1/images")
	if !ok {
		return
	}
	r, err := parseRoute(text)
	if err != nil {
		i.failf("%s", err)
		return
	}
	o.route, o.Method, o.Path, o.params = r, r.method, r.path, r.params()
}

// decodeCredits reads the price of a unit: a number, or an expression.
func (o *Operation) decodeCredits(i item) {
	if text := i.number(); text != "" {
		o.fixed = decodeCredits(i, text, unitCreditsMax, "write what a unit costs, or 0 if the operation is free")
		return
	}
	e := decodeExpression(i, "a number of credits or an expression", scope{needs: &o.needs})
	if e == nil {
		return
	}
	switch {
	case e.lo < 0:
		i.failf("can fall below 0 (to %v); write max(0, …)", e.lo)
	case e.hi == 0:
		i.failf("always comes to 0; write credits: 0")
	case e.hi > unitCreditsMax:
		i.failf("can reach %s, and %d is the most; bound it with min(…, 100), so that a request has a known maximum",
			strconv.FormatFloat(e.hi, 'f', -1, 64), unitCreditsMax)
	}
	o.credits, o.fixed = e, -1
}

// decodeCredits reads a literal amount of at most so many credits; fix says what to write instead of one below 0.
func decodeCredits(i item, text string, most int64, fix string) meter.Credits {
	c, err := meter.ParseCredits(text)
	_, frac, _ := strings.Cut(text, ".")
	switch {
	case err != nil && len(frac) > 3 && wholeDigits(frac):
		i.failf("%s has %s decimals; write at most three, such as %s", text, count(len(frac)), text[:len(text)-len(frac)+3])
	case err != nil && wholeDigits(text) && text[0] != '0':
		i.failf("%s is out of range; %d is the most", text, most)
	case err != nil:
		i.failf("%s is not an amount; write digits with at most three decimals, such as 1 or 0.25", text)
	case c < 0:
		i.failf("%s is below 0; %s", text, fix)
	case c > meter.Credits(most)*meter.Credit:
		i.failf("%s is out of range; %d is the most", text, most)
	}
	return max(c, 0)
}

// decodeUnits reads units and max.
func (o *Operation) decodeUnits(i item, keys map[string]item) {
	units, hasUnits := keys["units"]
	if m, ok := keys["max"]; ok {
		o.Max = decodeCount(m)
	}
	switch {
	case !hasUnits:
		if m, ok := keys["max"]; ok && o.Max != 1 {
			m.failf("has no effect without units; write units, or remove max")
		}
		o.Max = 1
	case units.number() != "":
		o.fixedUnit = decodeCount(units)
		if m, ok := keys["max"]; ok && o.Max < o.fixedUnit {
			m.failf("is below units (%d); raise it, or remove it", o.fixedUnit)
		}
		o.Max = o.fixedUnit
	default:
		if _, ok := keys["max"]; !ok {
			i.failf("max is missing; write how many units one request may have, such as max: 50")
		}
		o.units = decodeExpression(units, "a whole number or an expression", scope{needs: &o.needs})
		if o.units != nil && o.units.hi < 1 { // its lower end is checked by each request
			units.failf("never comes to 1 or more; a request has at least one unit")
		}
	}
}

func decodeCount(i item) uint32 {
	if !i.plain() {
		return 1
	}
	text := i.number()
	n, ok := wholeNumber(text)
	switch {
	case text == "":
		i.failf("must be a whole number, not %s", kindOf(i.node))
	case !ok && !strings.ContainsAny(text, "-+") && wholeDigits(text) || n > unitsMax:
		i.failf("%s is out of range; %d is the most", text, unitsMax)
	case !ok:
		i.failf("%s is not a whole number; write digits, such as 10", text)
	case n == 0:
		i.failf("0 allows nothing; write 1 or more")
	default:
		return uint32(n)
	}
	return 1
}

func (o *Operation) decodeDelivered(i item) {
	o.delivered = decodeExpression(i, "an expression over the response", scope{needs: &o.needs, response: true})
	if o.delivered == nil {
		return
	}
	if !o.needs.response.wanted() {
		i.failf("does not read the response; write what to count in it, such as len(response.data), or remove it")
	}
	o.keepsView = slices.ContainsFunc(o.delivered.refs, func(r ref) bool { return r.source != "response" })
}

// usedParams are the path parameters that an expression names.
func (o *Operation) usedParams() []string {
	var out []string
	for _, e := range o.expressions() {
		for _, r := range e.refs {
			if r.source == "path" && !slices.Contains(out, r.path[0]) {
				out = append(out, r.path[0])
			}
		}
	}
	return out
}

// decodeExpression compiles the text of i; nil if it cannot be used.
func decodeExpression(i item, want string, s scope) *expression {
	text, ok := i.word(want)
	if !ok {
		return nil
	}
	text = strings.TrimSpace(text)
	e, mistake := compile(text, s)
	if mistake != nil {
		i.at = i.inText(mistake.at)
		i.failf("%s", mistake.detail)
		return nil
	}
	return e
}

func wholeDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func count(n int) string {
	words := []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
	if n < len(words) {
		return words[n]
	}
	return strconv.Itoa(n)
}

// texts of the rules as they enter the version.

func (o *Operation) unitsText() string {
	if o.units != nil {
		return o.units.source
	}
	return strconv.FormatUint(uint64(o.fixedUnit), 10)
}

func (o *Operation) creditsText() string {
	if o.credits != nil {
		return o.credits.source
	}
	return o.fixed.String()
}

// DeliveredRule is the text of the `delivered` rule, empty if there is none.
func (o *Operation) DeliveredRule() string {
	if o.delivered != nil {
		return o.delivered.source
	}
	return ""
}
