package meter_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/redisd"
)

// mutant is a bug planted in the scripts: one piece of text in place of another.
type mutant struct{ name, old, planted string }

func mutants() []mutant {
	return []mutant{
		{"a return is credited twice", "add_available(a, g, rest, now)", "add_available(a, g, rest + rest, now)"},
		{"a return revives an expired grant", "if now >= g.expires then return rest, pay end", ""},
		{"a return pays no debt", "local pay = min(amount, g.debt)", "local pay = 0"},
		{"the first drained is returned first", "x.weight > y.weight", "x.weight < y.weight"},
		{"the paid are not returned first", "(d.grant.flags % 2) * GRANTS_MAX", "0"},
		{"the lease is not checked again", "if sec.up < r.deadline then return NOT_DUE, r.packed end", ""},
		{"an outage does not extend leases", "sec.up = sec.now - sec.down_ms", "sec.up = sec.now"},
		{"a settled deadline moves", "r.deadline = r.deadline + sec.now - sec.up", ""},
		{"an extension shortens", "if sec.up + lease > r.deadline then", "if true then"},
		{"a late commit ignores the key's newer attempt", "local superseded = key and find_key(sec, key, op.id)", "local superseded"},
		{"a late commit does not take the key", "if key and r.state == LATE then keep_key(sec, key, op.id, r.packed) end", ""},
		{"a commit does not take the key", "if key then keep_key(sec, key, op.id, r.packed) end", ""},
		{"a key is looked for in one day", "for _, day in ipairs(key.days) do", "for _, day in ipairs({key.home}) do"},
		{"the fingerprint is not compared", "if k and k.fingerprint ~= key.fingerprint then return KEY_MISMATCH end", ""},
		{"expiry forgets the note", "r.state ~= HELD and r.state ~= EXPIRED", "r.state ~= HELD"},
		{"a commit need not name the key", "if r.note ~= note and key_of_note(r.note) ~= (key and key.hash) then", "if false then"},
		{"a known id is reserved again", "if r then return r.state == HELD and OK or CONFLICT, r.packed end", ""},
		{"a forgotten id is reserved again", "if created_ms(op.id) < sec.outcomes_from then return STALE end", ""},
		{"another amount is no conflict", "return r.charged == amount and OK or CONFLICT, r.packed", "return OK, r.packed"},
		{"more than reserved is charged", "or amount > r.amount then return CONFLICT", "then return CONFLICT"},
		{"another account settles", "if r and op.account ~= '' and op.account ~= r.account then", "if false then"},
		{
			"a release leaves no tombstone", "keep_reservation(sec, op, r)\n    return OK, r.packed\n  end\n  if r.state == RELEASED",
			"return OK, pack_reservation(r)\n  end\n  if r.state == RELEASED",
		},
		{"the suspended reserve", "if a.flags % 2 == 1 then return SUSPENDED end", ""},
		{"one too many in flight", "if a.holds >= holds_max then", "if a.holds > holds_max then"},
		{"holds are not counted down", "a.holds = a.holds - 1", ""},
		{"dead grants pay", "if g.available > 0 and g.effective <= now and now < g.expires then", "if g.available > 0 then"},
		{"a lapse is not checked again", "if g and sec.now < g.expires then", "if false then"},
		{"a moved grant keeps its place", "remove_grant(a, g)\n  g.expires = expires\n  insert_grant(a, g)", "g.expires = expires"},
		{"a revocation beyond what is there is not written off", "if beyond == BEYOND_NOTHING then amount = taken end", ""},
		{"a freeze owes what is spent", "if beyond == BEYOND_HELD then", "if false then"},
		{"a freeze owes what it owes twice", "g.held - (g.debt - settled)) or 0", "g.held) or 0"},
		{"what a revocation takes the place of is left to be spent", "add_available(a, g, back - taken, sec.now)", "add_available(a, g, -min(g.available, taken), sec.now)"},
		{"what a revocation takes the place of is still owed", "g.debt = g.debt - settled + amount - taken", "g.debt = g.debt + amount - taken"},
		{"what a revocation takes the place of is not there to be taken", "(g and g.available or 0) + back, amount)", "(g and g.available or 0), amount)"},
		{"a revocation in place of another believes an old debt", "if settled > 0 or not g and amount > taken then debt_left", "if not g and amount > taken then debt_left"},
		{"a revocation takes the place of a larger one", "if undone > amount then error('a revocation takes the place of a larger one') end", ""},
		{"a reversal settles no debt", "local settled = min(owed, amount)", "local settled = 0"},
		{"a reversal revives an expired grant", "local lapsed = sec.now >= expires and rest or 0", "local lapsed = 0"},
		{"a reversal believes an old debt", "if paid > 0 then debt_left(a, sec.pseq + 1) end", ""},
		{"a debt goes with its grant", "if g.debt > 0 then debt_left(a, pseq) end", ""},
		{"an old flag wins", "if version > a.version then", "if true then"},
		{"a grant is not remembered", "remember(a, op.id, sec.pseq + 1)", ""},
		{"what was forgotten is not known", "a.pruned = max(a.pruned, c.pseq)", ""},
		{"a forgotten change is applied again", "if checked < a.pruned then return RECHECK end", ""},
		{"the account's seq stands still", "a.seq = a.seq + 1", ""},
		{"outcomes are dropped unflushed", "if first and (read('<i6', first[2][2], 2)) <= last then return NOT_DUE end", ""},
		{"outcomes are dropped at once", "last + keep > sec.now", "last > sec.now"},
		{"a drop is not remembered", "if what == 1 then sec.outcomes_from = max(sec.outcomes_from, end_ms) end", ""},
		{"a restart goes unnoticed", "elseif sec.inc ~= incarnation then sec.code = FENCED", ""},
		{"another's epoch goes unnoticed", "elseif sec.epoch ~= sec.called_epoch then sec.code = EPOCH", ""},
		{"a cap stops nobody", "if g.flags >= STOPS then last = g.rank end", ""},
		{"a cap that is over stops", "if g.rank <= last and is_live(g, now) then", "if g.rank <= last and g.effective <= now then"},
		{"a cap that has not begun stops", "if g.rank <= last and is_live(g, now) then", "if g.rank <= last and now < g.expires then"},
		{"a cap stops its own bucket", "if g.rank <= last and", "if (g.rank < last or last == RANK_MAX) and"},
		{"a used-up cap is forgotten", "(g.flags < STOPS or now >= g.expires)", "true"},
		{"what is behind a cap is in the kept sum", "if a.flags >= FAIR then a.till = 0", "if false then a.till = 0"},
		{"an account forgets that it has a cap", "if g.flags >= UNLIMITED and a.flags < FAIR then a.flags = a.flags + FAIR end", ""},
		{"an account goes on with a cap it has not", "a.flags = a.flags - FAIR\n", "\n"},
		{"a revoked cap stops", "g.flags = g.flags - STOPS", ""},
		{"the unlimited are told a number", "then return -1 - left end", "then return left end"},
		{"one bad operation spoils the rest", "ok, err = pcall(compute, failed)", "ok, err = true, compute(failed)"},
	}
}

// TestMutants plants one bug at a time and plays until the model test sees it. A suite that has never failed proves
// nothing; this one has, on each of these.
func TestMutants(t *testing.T) {
	t.Parallel()
	servers := make(chan *redisd.Server, 2)
	for range cap(servers) {
		servers <- redisd.Test(t)
	}
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		for _, m := range mutants() {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				server := <-servers
				defer func() { servers <- server }()
				seen := 0     // verbs until it was seen
				for range 3 { // nearly all are seen in a second; luck must not decide about the slowest
					rapid.Check(t, func(rt *rapid.T) {
						if seen == 0 {
							seen = hunt(t, rt, server, m)
						}
					})
				}
				require.NotZero(t, seen, "%s: not seen", m.name)
				t.Logf("seen within %d verbs", seen)
			})
		}
	})
}

// hunt plays once on mutated scripts, and returns the number of verbs when the mutant was seen, or 0.
func hunt(t *testing.T, rt *rapid.T, server *redisd.Server, m mutant) (seen int) {
	var p *play
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(caught); !ok {
				panic(r)
			}
			seen = max(1, p.verbs)
		}
		p.close()
	}()
	p = newPlay(t.Context(), t, server, func(e *meter.Engine) {
		require.True(t, e.HasCode(m.old), "the scripts have changed; plant this bug anew")
		e.Mutate(m.old, m.planted)
	})
	p.t = catcher{}
	p.fund()
	for range 3 {
		rt.Repeat(p.actions())
	}
	return 0
}

// catcher takes a failure for a find: it ends the play instead of the test.
type catcher struct{}

type caught struct{}

func (catcher) Errorf(string, ...any) {}
func (catcher) FailNow()              { panic(caught{}) }
