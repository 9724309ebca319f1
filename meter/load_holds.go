package meter

import (
	"context"
	"sync"
)

// Redis has no index of what is open by account: a reserve would pay for it, and loads are rare. So a load looks at
// everything that is open in the partition, which takes 50 commands for 50,000 reservations. Loads that wait share a look.

// holdsSeeker finds what open reservations hold of accounts that are being loaded, one look at a time in a partition.
type holdsSeeker struct {
	mu   sync.Mutex
	next *holdsLook    // takes in accounts until it begins; nil: the next account makes one
	turn chan struct{} // holds one: a look is under way
}

// holdsLook is one scan, for all accounts that were there when it began.
type holdsLook struct {
	accounts map[string]*holds
	done     chan struct{} // closed when accounts are filled in, or err is set
	err      error
}

// holds are the open reservations of one account. HSCAN may show a reservation twice.
type holds struct {
	seen  map[ID]bool
	drawn map[ID]Credits // by grant
}

func newHoldsSeeker() holdsSeeker { return holdsSeeker{turn: make(chan struct{}, 1)} }

// join puts an account into the next look. The caller that made that look must carry it out.
func (s *holdsSeeker) join(account string) (look *holdsLook, made bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next, made = &holdsLook{accounts: map[string]*holds{}, done: make(chan struct{})}, true
	}
	s.next.accounts[account] = &holds{seen: map[ID]bool{}, drawn: map[ID]Credits{}}
	return s.next, made
}

// begin closes the next look to more accounts.
func (s *holdsSeeker) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
}

// addHolds moves what open reservations hold of the account from available to held. The look begins after Redis was seen
// without the account. From then on its reservations cannot change.
func (e *Engine) addHolds(ctx context.Context, account string, partition uint16, a *Account) error {
	s := &e.partitions[partition].holds
	look, made := s.join(account)
	if made {
		e.look(ctx, s, look, partition)
	}
	<-look.done // a look and the one before it take at most a verbBudget each
	if look.err != nil {
		return look.err
	}
	h := look.accounts[account]
	a.Holds += uint32(len(h.seen)) // at most InFlightMax
	for i := range a.Grants {
		g := &a.Grants[i]
		g.Available -= h.drawn[g.ID]
		g.Held += h.drawn[g.ID]
	}
	return nil
}

// look carries out a look, in its own time: it is not only for the one who made it.
func (e *Engine) look(ctx context.Context, s *holdsSeeker, look *holdsLook, partition uint16) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	defer close(look.done)
	s.begin()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbBudget)
	defer cancel()
	look.err = e.eachOpen(ctx, partition, func(r Reservation) error {
		h := look.accounts[r.Account]
		if h == nil || h.seen[r.ID.ID] {
			return nil
		}
		h.seen[r.ID.ID] = true
		for _, d := range r.Draws {
			h.drawn[d.Grant] += d.Amount
		}
		return nil
	})
}
