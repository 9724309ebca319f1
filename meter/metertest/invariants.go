package metertest

import (
	"errors"
	"fmt"

	"creditgate/meter"
)

// Check reports every broken invariant of a partition at rest between two verbs; nil when all hold. The numbers are
// those of the project's list of invariants. It needs the whole ledger: an account loaded from Postgres must have
// its history in s.Ledger.
func Check(s State) error {
	c := checker{
		s: s, lots: map[meter.ID]*lot{}, settled: map[meter.ID][]meter.Entry{}, seq: map[string]uint64{},
		holds: map[string]uint32{},
	}
	c.ledger()
	c.reservations()
	for name, a := range s.Accounts {
		c.account(name, a)
	}
	c.gone()
	c.keys()
	return errors.Join(c.errs...)
}

// lot is what the ledger says of a grant.
type lot struct {
	account                               string
	granted, spent, lapsed, revoked, debt meter.Credits
	held                                  meter.Credits // by open reservations
	grants                                int
	kept                                  bool // by its account
}

type checker struct {
	s       State
	lots    map[meter.ID]*lot
	settled map[meter.ID][]meter.Entry // the entries of each reservation, in order
	seq     map[string]uint64
	holds   map[string]uint32 // open reservations of each account
	errs    []error
}

func (c *checker) expectf(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

func (c *checker) lot(id meter.ID) *lot {
	if c.lots[id] == nil {
		c.lots[id] = &lot{}
	}
	return c.lots[id]
}

// ledger walks every record: dense sequences and time (I6, I11), and the sums that the rest is compared with.
func (c *checker) ledger() {
	var last meter.Record
	for i, rec := range c.s.Ledger {
		c.expectf(rec.Pseq == last.Pseq+1, "I6: record %s follows %s", rec.Position, last.Position)
		c.expectf(rec.Epoch >= last.Epoch, "I6: the epoch goes back at record %s", rec.Position)
		c.expectf(rec.OccurredMs >= last.OccurredMs, "I11: time goes back at record %s", rec.Position)
		c.expectf(len(rec.Entries) > 0, "I6: record %d is empty", i)
		for j, e := range rec.Entries {
			c.seq[e.Account]++
			want := c.seq[e.Account]
			c.expectf(e.Seq == want, "I6: entry %s of %s has seq %d, want %d", rec.EntryID(j), e.Account, e.Seq, want)
			c.entry(rec.EntryID(j), e)
		}
		last = rec
	}
	c.expectf(c.s.Pseq == last.Pseq, "I6: meta says pseq %d, the ledger ends with %d", c.s.Pseq, last.Pseq)
	c.expectf(c.s.FlushedPseq <= c.s.Pseq, "I10: flushed %d of %d", c.s.FlushedPseq, c.s.Pseq)
}

// entry checks one entry by itself (I2) and adds it up.
func (c *checker) entry(name string, e meter.Entry) {
	var granted, spent, returned, lapsed, revoked, debt meter.Credits
	for _, l := range e.Lines {
		g := c.lot(l.Grant)
		if e.Kind == meter.KindGrant {
			g.account = e.Account
			g.grants++
		}
		c.expectf(g.account == e.Account, "I2: entry %s of %s moves credit of %s", name, e.Account, g.account)
		g.granted, g.spent, g.lapsed = g.granted+l.Granted, g.spent+l.Spent, g.lapsed+l.Lapsed
		g.revoked, g.debt = g.revoked+l.Revoked, g.debt+l.Debt
		granted, spent, returned = granted+l.Granted, spent+l.Spent, returned+l.Returned
		lapsed, revoked, debt = lapsed+l.Lapsed, revoked+l.Revoked, debt+l.Debt
		for _, part := range []meter.Credits{l.Granted, l.Spent, l.Returned, l.Lapsed, l.Revoked} {
			c.expectf(part >= 0 || e.Kind == meter.KindAdjust, "I2: entry %s has a negative part: %+v", name, l)
		}
	}
	settled := granted == 0 && spent+returned == e.Amount && lapsed+revoked <= returned && debt == -revoked
	sums := map[meter.Kind]bool{
		meter.KindGrant:       granted == e.Amount && spent+returned+lapsed+revoked+debt == 0,
		meter.KindLapse:       lapsed == e.Amount && granted+spent+returned+revoked+debt == 0,
		meter.KindRevoke:      revoked+debt == e.Amount && granted+spent+returned+lapsed == 0,
		meter.KindAdjust:      -revoked-debt == e.Amount && granted+spent+returned == 0 && max(revoked, debt, lapsed+revoked) <= 0,
		meter.KindLate:        spent == e.Amount && granted+returned+lapsed+revoked+debt == 0,
		meter.KindUncollected: len(e.Lines) == 0,
		meter.KindCommit:      settled && spent > 0,
		meter.KindRelease:     settled && spent == 0,
		meter.KindExpire:      settled && spent == 0,
	}
	c.expectf(sums[e.Kind], "I2: entry %s (%s of %s) does not add up: %+v", name, e.Kind, e.Amount, e.Lines)
	if e.Kind >= meter.KindCommit && e.Kind <= meter.KindUncollected {
		c.settled[e.ID] = append(c.settled[e.ID], e)
	}
}

// account compares a balance with the ledger at equal seq (I1, I3), and with what is open (I5).
func (c *checker) account(name string, a meter.Account) {
	c.expectf(a.Seq == c.seq[name], "I3: %s is at seq %d, the ledger at %d", name, a.Seq, c.seq[name])
	c.expectf(len(a.Grants) <= meter.GrantsMax, "%s has %d grants", name, len(a.Grants))
	c.expectf(a.Holds == c.holds[name], "I5: %s counts %d holds, %d are open", name, a.Holds, c.holds[name])
	for i, g := range a.Grants {
		c.expectf(i == 0 || meter.CompareGrants(a.Grants[i-1], g) < 0, "%s: grant %s is out of drain order", name, g.ID)
		c.grant(name, g)
	}
}

func (c *checker) grant(name string, g meter.Grant) {
	l := c.lot(g.ID)
	l.kept = true
	c.expectf(g.Available >= 0 && g.Held >= 0 && g.Debt >= 0, "I1: grant %s is negative: %+v", g.ID, g)
	c.expectf(l.grants == 1 && l.account == name, "I8: grant %s of %s was granted %d times, to %s",
		g.ID, name, l.grants, l.account)
	c.expectf(l.granted == g.Available+g.Held+l.spent+l.lapsed+l.revoked,
		"I1: grant %s: granted %s ≠ available %s + held %s + spent %s + lapsed %s + revoked %s",
		g.ID, l.granted, g.Available, g.Held, l.spent, l.lapsed, l.revoked)
	c.expectf(l.debt == g.Debt, "I1: grant %s owes %s, the ledger says %s", g.ID, g.Debt, l.debt)
	c.expectf(l.held == g.Held, "I5: grant %s holds %s, open reservations drew %s", g.ID, g.Held, l.held)
	c.expectf(g.Available > 0 || g.Held > 0 || g.Stops, "grant %s of %s holds nothing and is kept", g.ID, name)
}

// gone checks the grants that their accounts do not list any more.
func (c *checker) gone() {
	for id, l := range c.lots {
		if _, loaded := c.s.Accounts[l.account]; l.kept || !loaded {
			continue
		}
		c.expectf(l.grants == 1, "I8: grant %s was granted %d times", id, l.grants)
		c.expectf(l.granted == l.spent+l.lapsed+l.revoked && l.held == 0,
			"I1: grant %s is gone with granted %s, spent %s, lapsed %s, revoked %s, held %s",
			id, l.granted, l.spent, l.lapsed, l.revoked, l.held)
	}
}

// reservations checks that each has one chain of entries, and that its outcome says what they say (I4).
func (c *checker) reservations() {
	for id, r := range c.s.Open {
		_, both := c.s.Done[id]
		c.expectf(!both, "I4: %s is both open and done", id)
		entries := len(c.settled[id])
		c.expectf(r.State == meter.Held && entries == 0, "I4: %s is open, %s, with %d entries", id, r.State, entries)
		var drawn meter.Credits
		c.holds[r.Account]++
		for _, d := range r.Draws {
			drawn += d.Amount
			c.lot(d.Grant).held += d.Amount
			c.expectf(d.Amount > 0 && d.Charged == 0, "I5: %s has draw %+v", id, d)
		}
		c.expectf(drawn == r.Amount, "I5: %s holds %s by draws of %s", id, r.Amount, drawn)
		c.expectf(drawn > 0 && c.s.Accounts[r.Account].Holds > 0, "I5: %s holds nothing of %s", id, r.Account)
	}
	for id, chain := range c.settled {
		last := chain[len(chain)-1]
		ok := len(chain) == 1 || len(chain) == 2 && chain[0].Kind == meter.KindExpire && last.Kind >= meter.KindLate
		c.expectf(ok, "I4: %s was settled %d times: %s, then %s", id, len(chain), chain[0].Kind, last.Kind)
		if r, known := c.s.Done[id]; known {
			c.expectf(stateOf(last.Kind) == r.State, "I4: %s is %s, its last entry is %s", id, r.State, last.Kind)
			c.expectf(spent(last) == r.Charged, "I4: %s charged %s, its entry %s", id, r.Charged, spent(last))
		} else {
			c.expectf(id.CreatedMs() < c.s.OutcomesFromMs, "I4: the outcome of %s is missing", id)
		}
	}
	for id, r := range c.s.Done {
		tombstone := r.State == meter.Released && r.Amount == 0
		c.expectf(tombstone || len(c.settled[id]) > 0, "I4: %s is %s without an entry", id, r.State)
		c.expectf(r.State != meter.Held, "I4: %s is done and held", id)
	}
}

// keys checks that a key is charged once at most, and knows by whom (I7).
func (c *checker) keys() {
	charged := map[[16]byte]meter.ID{}
	for id, chain := range c.settled {
		for _, e := range chain {
			if e.Note.Key == nil || spent(e) == 0 {
				continue
			}
			other, twice := charged[e.Note.Key.Hash]
			c.expectf(!twice, "I7: one Idempotency-Key is charged by %s and %s", other, id)
			charged[e.Note.Key.Hash] = id
		}
	}
	for slot, rec := range c.s.Keys {
		by, ok := charged[slot.Hash]
		c.expectf(!rec.Charged() || ok && rec.Reservation == by, "I7: a key says %s was charged, the ledger %s", rec.Reservation, by)
		r, open := c.s.Open[rec.Reservation]
		c.expectf(!open || r.Note.Key != nil && r.Note.Key.Hash == slot.Hash,
			"I7: a key stands for %s, which has another", rec.Reservation)
		c.expectf(!open || !ok, "I7: %s is held under a key that %s was charged for", rec.Reservation, by)
	}
}

func spent(e meter.Entry) (sum meter.Credits) {
	for _, l := range e.Lines {
		sum += l.Spent
	}
	return sum
}

func stateOf(k meter.Kind) meter.State {
	return map[meter.Kind]meter.State{
		meter.KindCommit: meter.Committed, meter.KindRelease: meter.Released, meter.KindExpire: meter.Expired,
		meter.KindLate: meter.Late, meter.KindUncollected: meter.Uncollected,
	}[k]
}
