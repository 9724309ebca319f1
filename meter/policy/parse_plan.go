package policy

import (
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// packsKey is the key of a plan beside its buckets.
const packsKey = "packs"

func (d *draft) decodePlans(i item) {
	entries, ok := i.mapping("a mapping of plans by name")
	switch {
	case ok && len(entries) == 0:
		i.failf("is empty; describe a plan, or remove the key")
	case len(entries) > plansMax:
		i.failf("has %d plans; %d are the most", len(entries), plansMax)
	}
	for _, e := range entries {
		checkName(e.item, e.key)
		d.Plans = append(d.Plans, d.decodePlan(e))
	}
}

// decodePlan reads what a subscription gives, by bucket, and the packs that it may buy.
func (d *draft) decodePlan(e entry) *Plan {
	pl := &Plan{Name: e.key}
	keys, ok := e.fields("a mapping of buckets to what they get", append(slices.Clone(d.Buckets), packsKey)...)
	if !ok {
		return pl
	}
	for rank, bucket := range d.Buckets {
		i, ok := keys[bucket]
		if !ok || bucket == packsKey {
			continue
		}
		if _, isMapping := i.node.(ast.MapNode); isMapping {
			c := d.decodeContingent(i)
			c.Bucket, c.Rank = bucket, uint8(rank) // at most bucketsMax
			pl.Contingents = append(pl.Contingents, c)
		} else {
			pl.Promotions = append(pl.Promotions, d.decodePromotionNames(i, bucket)...)
		}
	}
	packs, buys := keys[packsKey]
	if buys {
		pl.Packs = d.decodePackNames(packs)
		d.checkPriceList(packs, pl)
	}
	if m, isMapping := e.node.(ast.MapNode); isMapping && !m.MapRange().Next() {
		e.failf("gives no credit and sells no packs, so nobody on it could ever do anything; add a contingent, a promotion or packs")
	}
	return pl
}

// decodeContingent reads what a bucket gets every cycle: counted credits, or any number up to a fair-use cap.
func (d *draft) decodeContingent(i item) Contingent {
	c := Contingent{Amount: FixedAmount(0)}
	keys, ok := i.fields("a mapping with credits, or with unlimited and fair_use", "credits", "unlimited", "fair_use", "after_cap")
	if !ok {
		return c
	}
	credits, counted := keys["credits"]
	limit, capped := keys["fair_use"]
	after, hasAfter := keys["after_cap"]
	if u, ok := keys["unlimited"]; ok {
		if c.Unlimited, ok = u.truth(); ok && !c.Unlimited {
			u.failf("says something only as true; write credits: … alone, or unlimited: true with fair_use")
		}
		if !c.Unlimited {
			return c
		}
	}
	if !d.hasCycle && !d.cycleMissed {
		d.cycleMissed = true
		i.failf("is renewed every cycle, and the policy has no cycle; write cycle: {anchor: {day_of_month: 1}}")
	}
	switch {
	case c.Unlimited && counted:
		credits.failf("is set beside unlimited; keep credits for a counted contingent, or unlimited with fair_use")
	case c.Unlimited && !capped:
		i.failf("fair_use is missing; write the most that a cycle may use, such as fair_use: 20000")
	case c.Unlimited:
		c.Amount = decodeAmount(limit, "allows nothing; write the most that a cycle may use")
	case counted:
		c.Amount = decodeAmount(credits, "gives nothing; remove the contingent")
	default:
		i.failf("credits is missing; write what every cycle brings, such as credits: slots * 10, or unlimited: true with fair_use")
	}
	if capped && !c.Unlimited {
		limit.failf("has no effect without unlimited: true; add that, or remove it")
	}
	if hasAfter && !c.Unlimited {
		after.failf("has no effect without unlimited: true; add that, or remove it")
	}
	c.Stops = c.Unlimited
	if hasAfter && c.Unlimited {
		word := after.choice("refuse", "draw")
		c.Stops = word != "draw"
	}
	return c
}

// decodePromotionNames reads one name, or a list of names, of promotions in a bucket.
func (d *draft) decodePromotionNames(i item, bucket string) []*Promotion {
	names := []item{i}
	if _, isList := i.node.(*ast.SequenceNode); isList {
		if names, _ = i.list(""); len(names) == 0 {
			i.failf("is empty; name a promotion, or remove the key")
		}
	}
	var out []*Promotion
	for _, n := range names {
		name, ok := n.word("a mapping such as {credits: slots * 10}, or the name of a promotion")
		if !ok {
			continue
		}
		k := slices.IndexFunc(d.Promotions, func(m *Promotion) bool { return m.Name == name })
		switch {
		case k < 0:
			delete(d.promotionAt, nearest(name, promotionNames(d.Promotions)))
			n.failf("%s", unknown(name, "a promotion", promotionNames(d.Promotions)))
			continue
		case slices.Contains(out, d.Promotions[k]):
			n.failf("%s is named twice; keep one", name)
			continue
		case d.Promotions[k].Bucket != bucket && d.Promotions[k].Bucket != "":
			n.failf("%s gives into bucket %s; write it under %[2]s", name, d.Promotions[k].Bucket)
		}
		delete(d.promotionAt, name)
		out = append(out, d.Promotions[k])
	}
	return out
}

// decodePackNames reads the packs that a plan may buy, from the smallest to the largest.
func (d *draft) decodePackNames(i item) []*Pack {
	names, ok := i.list("a list of packs, such as [plus-50, plus-200]")
	if ok && len(names) == 0 {
		i.failf("is empty; name the packs that this plan may buy, or remove the key")
	}
	var out []*Pack
	for _, n := range names {
		name, ok := n.word("the name of a pack")
		if !ok {
			continue
		}
		k, known := d.Pack(name)
		switch {
		case !known:
			delete(d.packAt, nearest(name, packNames(d.Packs)))
			n.failf("%s", unknown(name, "a pack", packNames(d.Packs)))
			continue
		case slices.Contains(out, k):
			n.failf("%s is named twice; keep one", name)
			continue
		}
		delete(d.packAt, name)
		out = append(out, k)
	}
	return out
}

func promotionNames(list []*Promotion) []string {
	var out []string
	for _, m := range list {
		out = append(out, m.Name)
	}
	return out
}

func packNames(list []*Pack) []string {
	var out []string
	for _, k := range list {
		out = append(out, k.Name)
	}
	return out
}
