package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hash is over what the rules say, in one order, each text with its length, so that no two policies run together. Rules
// are what changes what is granted, charged or refused. What only tells people something is none: notices, advice, the
// addresses of shops, assumptions. Each part begins with a text that no name can be, so parts that are absent leave the
// version of older policies as it was.
func (p *Policy) hash() string {
	h := sha256.New()
	put := func(texts ...string) {
		for _, s := range texts {
			h.Write(strconv.AppendInt(nil, int64(len(s)), 10))
			h.Write([]byte{':'})
			h.Write([]byte(s))
		}
	}
	put(versionFormat, p.Name, p.Location.String(), strconv.FormatBool(p.Pass), strconv.Itoa(len(p.Buckets)))
	put(p.Buckets...)
	for _, o := range p.Operations {
		put(o.Name, o.Method, o.Path, o.unitsText(), strconv.FormatUint(uint64(o.Max), 10), o.creditsText(), o.DeliveredRule())
		if require := o.requireText(); require != "" {
			put("it requires", require)
		}
		if o.AtZeroRefuse {
			put("at zero: refuse")
		}
	}
	if p.Cycle != nil {
		put("the cycle", strconv.Itoa(p.Cycle.DayOfMonth), p.Cycle.At.String())
	}
	for _, pl := range slices.SortedFunc(slices.Values(p.Plans), byName((*Plan).name)) {
		promotions := slices.Sorted(slices.Values(promotionNames(pl.Promotions))) // their order says nothing
		put("a plan", pl.Name, strings.Join(packNames(pl.Packs), " "), strings.Join(promotions, " "))
		for _, c := range pl.Contingents {
			put("a contingent", c.Bucket, c.Amount.text, strconv.FormatBool(c.Unlimited), strconv.FormatBool(c.Stops))
		}
	}
	for _, m := range slices.SortedFunc(slices.Values(p.Promotions), byName((*Promotion).name)) {
		put("a promotion", m.Name, m.Bucket, instantText(m.Starts), instantText(m.Ends), m.Amount.text, strconv.FormatBool(m.PerCycle))
	}
	for _, k := range slices.SortedFunc(slices.Values(p.Packs), byName((*Pack).name)) {
		put("a pack", k.Name, k.Bucket, k.Credits.String(), k.Price.String(), k.Lifetime.Words(p.Location),
			strconv.FormatBool(k.Refundable), strconv.FormatBool(k.NeedsSubscription))
	}
	for n, s := range p.Rules.settings() {
		if s != (Rules{}).settings()[n] {
			put("a setting", s.name, s.value)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func instantText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func byName[T any](name func(*T) string) func(a, b *T) int {
	return func(a, b *T) int { return cmp.Compare(name(a), name(b)) }
}

func (pl *Plan) name() string     { return pl.Name }
func (m *Promotion) name() string { return m.Name }
func (k *Pack) name() string      { return k.Name }
