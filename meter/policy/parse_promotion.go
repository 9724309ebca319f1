package policy

import "time"

func (d *draft) decodePromotions(i item) {
	entries, ok := i.mapping("a mapping of promotions by name")
	switch {
	case ok && len(entries) == 0:
		i.failf("is empty; describe a promotion, or remove the key")
	case len(entries) > promotionsMax:
		i.failf("has %d promotions; %d are the most", len(entries), promotionsMax)
	}
	for _, e := range entries {
		checkName(e.item, e.key)
		d.Promotions = append(d.Promotions, d.decodePromotion(e))
		d.promotionAt[e.key] = e.item
	}
}

func (d *draft) decodePromotion(e entry) *Promotion {
	m := &Promotion{Name: e.key, PerCycle: true, Amount: FixedAmount(0)}
	keys, ok := e.fields("a mapping with bucket, starts, lasts and credits", "bucket", "starts", "lasts", "credits", "per")
	if !ok {
		return m
	}
	e.need(keys, "a promotion has a bucket, starts, lasts and credits", "bucket", "starts", "lasts", "credits")
	if b, ok := keys["bucket"]; ok {
		m.Bucket, m.Rank = d.decodeBucket(b)
	}
	if starts, ok := keys["starts"]; ok {
		m.Starts = decodeDate(starts, d.Location)
	}
	if lasts, ok := keys["lasts"]; ok {
		span := decodeSpan(lasts)
		year, month, day := m.Starts.Date()
		m.Ends = instant(span.after(time.Date(year, month, day, 0, 0, 0, 0, time.UTC)), d.Location).In(d.Location)
	}
	if c, ok := keys["credits"]; ok {
		m.Amount = decodeAmount(c, "gives nothing; write how many credits, or remove the promotion")
	}
	per, hasPer := keys["per"]
	if hasPer {
		word := per.choice("cycle", "window")
		m.PerCycle = word != "window"
	}
	if m.PerCycle && !d.hasCycle {
		at := e.item
		if hasPer {
			at = per
		}
		at.failf("gives per cycle, and the policy has no cycle; write per: window for one grant in all, or describe the cycle")
	}
	return m
}

// decodeBucket reads the name of a bucket of this policy.
func (d *draft) decodeBucket(i item) (string, uint8) {
	name, ok := i.word("the name of a bucket")
	if !ok || len(d.Buckets) == 0 { // their own mistake is reported
		return name, 0
	}
	rank, known := d.Rank(name)
	if !known {
		i.failf("%s", unknown(name, "a bucket", d.Buckets))
		return "", 0
	}
	return name, rank
}
