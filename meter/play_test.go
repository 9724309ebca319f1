package meter_test

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// play draws verbs. Ids, keys and changes come from small pools, so that repeats, conflicts and races between
// attempts are the rule; amounts are small, so that grants run dry; leases and expiries are short.
type play struct {
	*world
	reservations []meter.Reserve // every one ever asked for, the newest last
	grants       []meter.GrantChange
	revocations  []meter.Revocation
	moves        []meter.ExpiryMove
	reversals    []meter.Reversal
	keyRound     byte // raised when key records were dropped: their keys are not used again
	baseMs       int64
}

const (
	poolMax    = 12
	grantsEver = 40 // per play; each stays in the ledger's sums
)

var accounts = []string{"alpha", "beta", "gamma"} // two partitions

func newPlay(
	ctx context.Context, t require.TestingT, server *redisd.Server, mutations ...func(*meter.Engine),
) *play {
	p := &play{world: newWorld(ctx, t, server, 2, mutations...), baseMs: time.Now().UnixMilli()}
	for _, a := range accounts {
		p.book.AddAccount(a)
		_, err := p.engines[0].Balance(ctx, a)
		require.NoError(t, err)
		p.models[p.layout.PartitionOf(a)].Load(a, meter.Account{})
	}
	return p
}

// fund gives every account something for the first requests to find.
func (p *play) fund() {
	for _, a := range accounts {
		for i, lasts := range []int64{30_000, 30_000, 2_000, never} {
			p.grants = append(p.grants, p.lot(a, uint8(i/2), i%2 == 1, 4, 0, lasts, noCap))
			p.do(0, false, p.granting(p.grants[len(p.grants)-1]))
		}
	}
}

func (p *play) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":             func(*rapid.T) { p.compare() },
		"reserve":      func(t *rapid.T) { p.send(t, p.reserve(t)) },
		"reserve more": func(t *rapid.T) { p.send(t, p.reserve(t), p.reserve(t)) },
		"commit":       func(t *rapid.T) { p.send(t, p.commit(t)) },
		"release":      func(t *rapid.T) { p.send(t, p.release(t)) },
		"keep":         func(t *rapid.T) { p.send(t, p.extend(t)) },
		"expire":       func(t *rapid.T) { p.send(t, p.expire(t)) },
		"grant":        func(t *rapid.T) { p.send(t, p.grant(t)) },
		"cap":          func(t *rapid.T) { p.send(t, p.cap(t)) },
		"administer":   func(t *rapid.T) { p.send(t, p.administer(t)) },
		"lapse":        func(t *rapid.T) { p.send(t, p.lapse(t)) },
		"lapses":       p.lapseDue,
		"flight": func(t *rapid.T) {
			var verbs []verb
			for range rapid.IntRange(2, 6).Draw(t, "verbs") {
				verbs = append(verbs, rapid.SampledFrom([]func(*rapid.T) verb{
					p.reserve, p.commit, p.release, p.extend, p.expire, p.grant, p.administer, p.lapse,
				}).Draw(t, "verb")(t))
			}
			p.send(t, verbs...)
		},
		"time": p.pass,
		"flush": func(t *rapid.T) {
			p.flush(rapid.SampledFrom([]int{1, 1_000}).Draw(t, "records"), rapid.Bool().Draw(t, "tell"), rapid.Bool().Draw(t, "trim"))
		},
		"forget":  p.forget,
		"disturb": p.disturb,
	}
}

// send flies verbs through one gateway; sometimes the reply is lost on the way, sometimes the other gateway sends the
// same again.
func (p *play) send(t *rapid.T, verbs ...verb) {
	gateway := rapid.IntRange(0, 1).Draw(t, "gateway")
	fate := rapid.IntRange(0, 99).Draw(t, "fate")
	p.do(gateway, fate == 99, verbs...)
	if fate >= 85 {
		p.do(1-gateway, false, verbs...)
	}
}

func (p *play) account(t *rapid.T) string { return rapid.SampledFrom(accounts).Draw(t, "account") }

func (p *play) home(account string) *metertest.Model { return p.models[p.layout.PartitionOf(account)] }

func (p *play) suspend(t *rapid.T) verb {
	account, suspended := p.account(t), rapid.IntRange(0, 3).Draw(t, "suspended") == 0
	v := p.suspending(account, suspended, uint32(rapid.IntRange(0, 20).Draw(t, "version")))
	suspend := v.model
	v.model = func(m *metertest.Model) meter.Decision {
		d := suspend(m)
		p.book.SetFlags(account, d.Account.Suspended, d.Account.FlagsVersion)
		return d
	}
	return v
}

func (p *play) balance(t *rapid.T) verb { return p.balancing(p.account(t)) }

func (p *play) lapse(t *rapid.T) verb {
	if len(p.grants) == 0 {
		return p.balancing(p.account(t))
	}
	account := p.account(t)
	m := p.home(account)
	for _, g := range m.Accounts[account].Grants { // the first that is over, as the sweeper sees it
		if g.ExpiresMs <= m.NowMs && rapid.Bool().Draw(t, "over") {
			return p.lapsing(account, g.ID)
		}
	}
	g := p.someGrant(t)
	return p.lapsing(g.Account, g.Grant.ID)
}

// lapseDue is a round of the lapser, by what the book knows. Once that is everything, nothing that is over has anything
// left to draw.
func (p *play) lapseDue(t *rapid.T) {
	flushed := rapid.Bool().Draw(t, "flushed")
	if flushed {
		p.flush(1_000, true, false)
	}
	due, err := p.book.DueLapses(p.ctx, meter.Lapse{}, p.now(), 64) // one call takes so many; no play has more
	require.NoError(p.t, err)
	p.touch()
	require.NoError(p.t, p.engines[0].LapseDue(p.ctx))
	for _, m := range p.models {
		m.Batch(func() {
			for _, l := range due {
				if p.home(l.Account) == m {
					m.Lapse(l.Account, l.Grant)
				}
			}
		})
		for _, a := range m.Accounts {
			for _, g := range a.Grants {
				require.False(p.t, flushed && g.ExpiresMs <= m.NowMs && g.Available > 0, "grant %s was not found", g.ID)
			}
		}
	}
}

// pass lets time go by.
func (p *play) pass(t *rapid.T) {
	ms := rapid.SampledFrom([]int64{1, 499, 1_000, 1_000, 3_000, 20 * 60_000}).Draw(t, "ms")
	for _, m := range p.models {
		m.NowMs += ms
	}
	p.setClock()
}

// forget tries to drop the slot of a known reservation, of its outcome or of its key.
func (p *play) forget(t *rapid.T) {
	q, ok := p.known(t)
	if !ok {
		return
	}
	if rapid.Bool().Draw(t, "flushed") {
		p.flush(1_000, true, false)
	}
	created := q.ID.ID.CreatedMs()
	if rapid.IntRange(0, 3).Draw(t, "what") > 0 {
		p.do(0, false, p.dropping(q.ID.Partition, created, false))
		return
	}
	if rapid.Bool().Draw(t, "a day later") {
		for _, m := range p.models {
			m.NowMs += 24 * time.Hour.Milliseconds()
		}
		p.setClock()
	}
	p.keyRound++
	p.do(0, false, p.dropping(q.ID.Partition, created, true))
}

// disturb is what happens to Redis from outside: a restart, an outage, the loss of one account.
func (p *play) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 2).Draw(t, "disturbance") {
	case 0:
		p.reopen()
	case 1:
		ms := rapid.SampledFrom([]int64{500, 5_000}).Draw(t, "outage ms")
		for _, m := range p.models {
			m.Outage(ms)
			require.NoError(p.t, metertest.EditMeta(p.ctx, p.client, p.layout.Keys(m.Partition), func(m *meter.Meta) { m.DownMs += ms }))
		}
		p.setClock()
	case 2:
		p.lose(p.account(t))
	}
}
