package metertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"creditgate/meter"
)

// Dump is a partition in clear, for golden files and for people: times are told from the partition's clock and
// rounded to seconds, ids are numbered as they appear, outcome slots are shown as one.
func Dump(ctx context.Context, client redis.UniversalClient, layout meter.Layout, partition uint16) string {
	s, err := Read(ctx, client, layout, partition)
	text := s.Text(Format{})
	if err != nil {
		text += fmt.Sprintf("damage: %v\n", err)
	}
	return text
}

// Format says how Text writes times and ids.
type Format struct {
	Round time.Duration       // times are rounded to it; 0: a second
	Names map[meter.ID]string // of ids; others are numbered as they appear
}

// Text writes the state, the same text for the same state.
func (s State) Text(f Format) string {
	if f.Round == 0 {
		f.Round = time.Second
	}
	p := printer{Format: f, nowMs: s.NowMs, numbered: map[meter.ID]string{}}
	p.linef("partition %d-%02d  epoch %d  pseq %d  flushed %d", s.Layout.Number, s.Partition, s.Epoch, s.Pseq, s.FlushedPseq)
	if s.OutcomesFromMs != 0 {
		p.linef("outcomes from %s", p.at(s.OutcomesFromMs))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Accounts)) {
		p.account(name, s.Accounts[name])
	}
	for _, id := range sortedIDs(s.Open) {
		p.reservation(s.Open[id])
	}
	for _, id := range sortedIDs(s.Done) {
		p.reservation(s.Done[id])
	}
	for _, slot := range slices.SortedFunc(maps.Keys(s.Keys), func(a, b KeySlot) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), slices.Compare(a.Hash[:], b.Hash[:]))
	}) {
		rec := s.Keys[slot]
		p.linef("key %s  of %s  for %s%s", p.id(slot.Hash), p.id(rec.Reservation), p.id(rec.Fingerprint), charged(rec))
	}
	for _, rec := range s.Ledger {
		p.linef("ledger %s  %s", rec.Position, p.at(rec.OccurredMs))
		for _, e := range rec.Entries {
			p.entry(e)
		}
	}
	return p.String()
}

type printer struct {
	strings.Builder
	Format
	nowMs    int64
	numbered map[meter.ID]string
}

func (p *printer) linef(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *printer) id(id meter.ID) string {
	if name, ok := p.Names[id]; ok {
		return name
	}
	if _, ok := p.numbered[id]; !ok {
		p.numbered[id] = fmt.Sprintf("#%d", len(p.numbered)+1)
	}
	return p.numbered[id]
}

// at tells a time from the partition's clock: now, +10s, -1h0m0s, never.
func (p *printer) at(ms int64) string {
	if ms == meter.Never {
		return "never"
	}
	if ms == 0 {
		return "-"
	}
	d := (time.Duration(ms-p.nowMs) * time.Millisecond).Round(p.Round)
	switch {
	case d == 0:
		return "now"
	case d > 0:
		return "+" + d.String()
	}
	return d.String()
}

func (p *printer) account(name string, a meter.Account) {
	p.linef("account %s  seq %d  holds %d  suspended %t v%d  pruned %d",
		name, a.Seq, a.Holds, a.Suspended, a.FlagsVersion, a.PrunedPseq)
	for _, c := range a.Applied {
		p.linef("  applied %s at %d", p.id(c.ID), c.Pseq)
	}
	for _, g := range a.Grants {
		paid := "free"
		if g.Paid {
			paid = "paid"
		}
		if g.Unlimited {
			paid += " unlimited"
		}
		if g.Stops {
			paid += " stops"
		}
		p.linef("  grant %s  %d %s %s  available %s  held %s  debt %s  from %s  until %s  made %s", p.id(g.ID), g.Rank, g.Bucket,
			paid, g.Available, g.Held, g.Debt, p.at(g.EffectiveMs), p.at(g.ExpiresMs), p.at(g.CreatedMs))
	}
}

func (p *printer) reservation(r meter.Reservation) {
	unlimited := ""
	if r.Unlimited {
		unlimited = " of unlimited"
	}
	p.linef("%s %s  %s  amount %s  charged %s  available %s%s  lease %s  settled %s%s", r.State, p.id(r.ID.ID), r.Account,
		r.Amount, r.Charged, r.Available, unlimited, p.at(r.DeadlineMs), p.at(r.SettledMs), p.note(r.Note))
	for _, d := range r.Draws {
		p.linef("  draw %s  %s  charged %s", p.id(d.Grant), d.Amount, d.Charged)
	}
}

func (p *printer) note(n meter.Note) string {
	var b strings.Builder
	for _, f := range [...][2]string{
		{"operation", n.Operation}, {"policy", n.PolicyVersion}, {"by", n.KeyID}, {"reason", n.Reason}, {"actor", n.Actor},
	} {
		if f[1] != "" {
			fmt.Fprintf(&b, "  %s %q", f[0], f[1])
		}
	}
	if n.Key != nil {
		fmt.Fprintf(&b, "  key %s for %s", p.id(n.Key.Hash), p.id(n.Key.Fingerprint))
	}
	return b.String()
}

func (p *printer) entry(e meter.Entry) {
	p.linef("  %s %s  %s  seq %d  amount %s  units %d%s", e.Kind, p.id(e.ID), e.Account, e.Seq, e.Amount, e.Units, p.note(e.Note))
	for _, l := range e.Lines {
		fmt.Fprintf(p, "    %s", p.id(l.Grant))
		for _, v := range [...]struct {
			name   string
			amount meter.Credits
		}{
			{"granted", l.Granted},
			{"spent", l.Spent},
			{"returned", l.Returned},
			{"lapsed", l.Lapsed},
			{"revoked", l.Revoked},
			{"debt", l.Debt},
		} {
			if v.amount != 0 {
				fmt.Fprintf(p, "  %s %s", v.name, v.amount)
			}
		}
		p.linef("")
	}
}

func charged(rec KeyRecord) string {
	if !rec.Charged() {
		return ""
	}
	return fmt.Sprintf("  %s %s", rec.Outcome.State, rec.Outcome.Charged)
}
