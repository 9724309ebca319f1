package policy

import (
	"net/url"

	"creditgate/meter"
)

const urlBytesMax = 2048

func (d *draft) decodePacks(i item) {
	entries, ok := i.mapping("a mapping of packs by name")
	switch {
	case ok && len(entries) == 0:
		i.failf("is empty; describe a pack, or remove the key")
	case len(entries) > packsMax:
		i.failf("has %d packs; %d are the most", len(entries), packsMax)
	}
	for _, e := range entries {
		checkName(e.item, e.key)
		d.Packs = append(d.Packs, d.decodePack(e))
		d.packAt[e.key] = e.item
	}
}

func (d *draft) decodePack(e entry) *Pack {
	k := &Pack{Name: e.key}
	keys, ok := e.fields("a mapping with bucket, credits and price", "bucket", "credits", "price", "expires", "refundable",
		"needs_subscription", "buy_url")
	if !ok {
		return k
	}
	e.need(keys, "a pack has a bucket, credits and a price", "bucket", "credits", "price")
	if b, ok := keys["bucket"]; ok {
		k.Bucket, k.Rank = d.decodeBucket(b)
	}
	if c, ok := keys["credits"]; ok {
		k.Credits = decodeLot(c)
	}
	if p, ok := keys["price"]; ok {
		k.Price = decodeMoney(p)
	}
	if x, ok := keys["expires"]; ok {
		k.Lifetime = d.decodeLifetime(x)
	}
	if r, ok := keys["refundable"]; ok {
		k.Refundable, _ = r.truth()
	}
	if n, ok := keys["needs_subscription"]; ok {
		k.NeedsSubscription, d.buyersSaid[k.Name] = n.truth()
		if k.NeedsSubscription && !d.hasPlans {
			n.failf("is true, and the policy has no plans to subscribe to; describe plans, or remove it")
		}
	}
	if u, ok := keys["buy_url"]; ok {
		k.BuyURL = decodeURL(u)
	}
	if k.Lifetime.Kind == NextRenewal {
		d.checkRenewing(k, keys["expires"])
	}
	return k
}

// checkRenewing: what ends with a renewal needs an account that has one.
func (d *draft) checkRenewing(k *Pack, expires item) {
	switch {
	case !d.hasCycle:
		expires.failf("needs a cycle, and the policy has none; write cycle: {anchor: {day_of_month: 1}}")
	case !k.NeedsSubscription:
		expires.failf("next_renewal needs a subscription; say so with needs_subscription: true")
	}
}

// decodeLot reads the credits of one pack: a literal above 0.
func decodeLot(i item) meter.Credits {
	if !i.plain() {
		return 0
	}
	text := i.number()
	if text == "" {
		i.failf("must be a number of credits, not %s; what a pack holds does not depend on anything", kindOf(i.node))
		return 0
	}
	c := decodeCredits(i, text, amountMax, "write how many credits the pack holds")
	if n, err := meter.ParseCredits(text); err == nil && n == 0 {
		i.failf("0 sells nothing; write how many credits the pack holds")
	}
	return c
}

// decodeLifetime reads when bought credit expires.
func (d *draft) decodeLifetime(i item) Lifetime {
	if i.isWord() {
		switch word, ok := i.word(""); {
		case !ok || word == "never":
		case word == "next_renewal":
			return Lifetime{Kind: NextRenewal}
		default:
			i.failf("%s is not known; write never, {after: 1y}, {at: 2027-01-01} or next_renewal", show(word))
		}
		return Lifetime{}
	}
	keys, ok := i.fields("never, {after: 1y}, {at: 2027-01-01} or next_renewal", "after", "at")
	after, hasAfter := keys["after"]
	at, hasAt := keys["at"]
	switch {
	case !ok:
	case hasAfter && hasAt:
		at.failf("is set beside after; keep one of the two")
	case hasAfter:
		return Lifetime{Kind: AfterPurchase, After: decodeSpan(after)}
	case hasAt:
		return Lifetime{Kind: AtDate, At: decodeDate(at, d.Location)}
	default:
		i.failf("says no time; write never, {after: 1y}, {at: 2027-01-01} or next_renewal")
	}
	return Lifetime{}
}

func decodeURL(i item) string {
	text, ok := i.word("an address such as https://shop.example.com/packs")
	if !ok {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || len(text) > urlBytesMax {
		i.failf("%s is not an address; write one with scheme and host, such as https://shop.example.com/packs", show(text))
	}
	return text
}
