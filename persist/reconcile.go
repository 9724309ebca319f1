package persist

import (
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// cycleGrant is a grant that a subscription was given.
type cycleGrant struct {
	policy.Given

	grant     meter.ID
	rank      uint8
	unsettled bool // it is over, and it is not known yet what was used of all of it
}

// follower is bought credit that ends with the cycle.
type follower struct {
	grant     meter.ID
	expiresAt time.Time
}

// issue is one grant to be given, of a revision that is known when it is written.
type issue struct {
	policy.Due

	revision int
}

// move is an expiry that changes.
type move struct {
	grant meter.ID
	key   string // of a cycle's grant, else empty
	to    time.Time
}

// work is what lies between what a subscription gives and what it was given.
type work struct {
	account string
	issue   []issue
	revoke  []cycleGrant // what has not begun
	end     []cycleGrant // what is in force
	move    []move
}

func (w work) empty() bool { return len(w.issue)+len(w.revoke)+len(w.end)+len(w.move) == 0 }

// reconcile compares what is due from now on with what was given. Credit that is in force stays as it is, but for its
// end, which is its cycle's, or the moment at which its bucket becomes unlimited or is so no more: it comes nearer only
// for that, or where an anchor or a day of renewal that was to be moved is not moved after all, and never for a
// promotion. What has not begun is superseded where it is not what is due. What is over by now is not given any more: it
// would lapse in the moment it was granted.
func reconcile(due []policy.Due, given []cycleGrant, now time.Time) (w work) {
	valid := map[string]bool{}
	wanted := make(map[string]policy.Due, len(due))
	for _, d := range due {
		wanted[d.Key] = d
	}
	for _, g := range given {
		if !g.ExpiresAt.After(now) {
			continue
		}
		d, ok := wanted[g.Key]
		begun := !g.EffectiveAt.After(now)
		if !begun && (!ok || !g.is(d)) {
			w.revoke = append(w.revoke, g)
			continue
		}
		valid[g.Key] = true
		nearer := ok && d.ExpiresAt.Before(g.ExpiresAt)
		switch {
		case !ok || d.ExpiresAt.Equal(g.ExpiresAt) || begun && nearer && g.IsPromotion():
		case !d.ExpiresAt.After(now):
			w.end = append(w.end, g)
		default:
			w.move = append(w.move, move{g.grant, g.Key, d.ExpiresAt})
		}
	}
	for _, d := range due {
		if !d.Begun && !valid[d.Key] && d.ExpiresAt.After(now) {
			w.issue = append(w.issue, issue{Due: d})
		}
	}
	return w
}

// is reports whether the grant is what is due, its end aside.
func (g cycleGrant) is(d policy.Due) bool {
	return g.Bucket == d.Bucket && g.rank == d.Rank && g.Credits == d.Credits && g.EffectiveAt.Equal(d.EffectiveAt) &&
		g.Unlimited == d.Unlimited && g.Stops == d.Stops
}

// follow moves bought credit to the end of the cycle that runs, and never nearer.
func follow(w policy.Window, followers []follower) (moves []move) {
	for _, f := range followers {
		if w.To.After(f.expiresAt) && w.Contains(f.expiresAt.Add(-1)) {
			moves = append(moves, move{grant: f.grant, to: w.To})
		}
	}
	return moves
}
