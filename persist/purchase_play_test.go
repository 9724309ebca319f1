package persist_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter"
	"creditgate/persist"
)

// customer plays everything that can happen to one account, several things at a time, and keeps the sums that hold
// whatever came first.
type customer struct {
	*house

	t      *testing.T
	name   string
	seen   *witness
	mirror *mirror

	mu        sync.Mutex
	purchases []string
	disputes  []string
	holds     []meter.Reserve
	next      int
	granted   meter.Credits // bought and given
	spent     meter.Credits // committed
	claimed   meter.Credits // taken back or owed, less what was undone
	slots     uint32        // the most that was ever booked; 0: nobody asked, and nothing was issued
	booked    []uint32      // in the last round
}

func (c *customer) ref(what string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	return fmt.Sprintf("%s-%s-%d", c.name, what, c.next)
}

// add changes one of the sums.
func (c *customer) add(to *meter.Credits, n meter.Credits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*to += n
}

func pick(t *rapid.T, from []string) string {
	if len(from) == 0 {
		return ""
	}
	return rapid.SampledFrom(from).Draw(t, "of")
}

// step draws one thing to do; what it does to whom is drawn here, so that a failure can be repeated as far as
// concurrency lets it.
func (c *customer) step(t *rapid.T) func(ctx context.Context) error {
	whole := rapid.Uint32Range(2, 40).Draw(t, "credits") // more slots than the one that was booked before
	n := meter.Credits(whole) * meter.Credit
	purchase, dispute := pick(t, c.purchases), pick(t, c.disputes)
	switch rapid.SampledFrom([]string{
		"buy", "give", "change", "change", "request", "request", "hold", "settle", "refund", "chargeback", "won", "overdue", "paid",
		"disputed while held",
	}).Draw(t, "step") {
	case "buy":
		return c.purchase
	case "give":
		return func(ctx context.Context) error { return c.give(ctx, n) }
	case "change":
		return func(ctx context.Context) error { return c.change(ctx, whole) }
	case "request":
		return func(ctx context.Context) error { return c.request(ctx, n, true) }
	case "hold":
		return func(ctx context.Context) error { return c.request(ctx, n, false) }
	case "settle":
		return func(ctx context.Context) error { return c.settle(ctx, n) }
	case "refund":
		return func(ctx context.Context) error { return c.takeBack(ctx, purchase, "refund", n) }
	case "chargeback":
		return func(ctx context.Context) error { return c.takeBack(ctx, purchase, "chargeback", 0) }
	case "disputed while held": // chance alone rarely brings these together
		return func(ctx context.Context) error {
			return cmp.Or(c.request(ctx, n, false), c.takeBack(ctx, purchase, "chargeback", 0), c.settle(ctx, n/2))
		}
	case "won":
		return func(ctx context.Context) error { return c.won(ctx, dispute) }
	case "overdue":
		return func(ctx context.Context) error { return c.payment(ctx, purchase, persist.PaymentOverdue) }
	default:
		return func(ctx context.Context) error { return c.payment(ctx, purchase, persist.PaymentPaid) }
	}
}

func (c *customer) purchase(ctx context.Context) error {
	ref := c.ref("order")
	s, err := c.admin.Purchase(ctx, persist.NewPurchase{Account: c.name, Pack: "small", Ref: ref})
	c.add(&c.granted, s.Credits)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purchases = append(c.purchases, ref)
	return err
}

// change books more slots, or fewer.
func (c *customer) change(ctx context.Context, slots uint32) error {
	_, err := c.admin.PutSubscription(ctx, persist.SubscriptionChange{Account: c.name, Plan: "plus", Slots: &slots})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots, c.booked = max(c.slots, slots), append(c.booked, slots)
	return err
}

func (c *customer) give(ctx context.Context, n meter.Credits) error {
	_, err := c.admin.Grant(ctx, persist.NewGrant{Account: c.name, Bucket: "monthly", Rank: 1, Credits: n, Ref: c.ref("more")})
	c.add(&c.granted, n)
	return err
}

func (c *customer) request(ctx context.Context, n meter.Credits, settle bool) error {
	r := meter.Reserve{ID: c.engine.NewReservationID(c.name), Account: c.name, Amount: n, Lease: time.Minute}
	d, err := c.seen.Reserve(ctx, r)
	if err != nil || d.Code != meter.CodeOK {
		return err
	}
	c.mu.Lock()
	c.holds = append(c.holds, r)
	c.mu.Unlock()
	if !settle {
		return nil
	}
	return c.settle(ctx, n/2)
}

// settle ends the oldest hold: n of it is charged at most, nothing if n is small.
func (c *customer) settle(ctx context.Context, n meter.Credits) error {
	c.mu.Lock()
	if len(c.holds) == 0 {
		c.mu.Unlock()
		return nil
	}
	r := c.holds[0]
	c.holds = c.holds[1:]
	c.mu.Unlock()
	n = min(n, r.Amount)
	if n < 5*meter.Credit {
		_, err := c.seen.Release(ctx, meter.Settle{ID: r.ID, Account: c.name})
		return err
	}
	d, err := c.seen.Commit(ctx, meter.Settle{ID: r.ID, Account: c.name, Amount: n, Units: 1})
	if err == nil && d.Code != meter.CodeOK {
		err = fmt.Errorf("commit: %s", d.Code)
	}
	c.add(&c.spent, n)
	return err
}

func (c *customer) takeBack(ctx context.Context, purchase, reason string, n meter.Credits) error {
	if purchase == "" {
		return nil
	}
	ref := c.ref(reason)
	r, err := c.admin.Revoke(ctx, persist.NewRevocation{Account: c.name, PurchaseRef: purchase, Credits: n, Ref: ref, Reason: reason})
	if errors.Is(err, persist.ErrExceedsGrant) || errors.Is(err, persist.ErrRefused) { // more than is left, or frozen
		return nil
	}
	if err != nil {
		return err
	}
	c.add(&c.claimed, r.Credits)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disputes = append(c.disputes, ref)
	if b := r.Booked; b != nil && b.Taken+b.Debt+b.WrittenOff != r.Credits {
		return fmt.Errorf("%s of %s is booked as %+v", ref, r.Credits, *b)
	}
	return nil
}

func (c *customer) won(ctx context.Context, dispute string) error {
	if dispute == "" {
		return nil
	}
	r, err := c.admin.Reverse(ctx, persist.NewReversal{Account: c.name, RevocationRef: dispute, Ref: c.ref("won")})
	if err != nil || r.Repeated {
		return err
	}
	var credits []int64
	for _, row := range c.query(c.t, `SELECT credits::bigint FROM creditgate.revocation WHERE external_ref = $1`, dispute) {
		credits = append(credits, row[0].(int64))
	}
	c.add(&c.claimed, -meter.Credits(credits[0]))
	return nil
}

func (c *customer) payment(ctx context.Context, purchase, status string) error {
	if purchase == "" {
		return nil
	}
	_, err := c.admin.Payment(ctx, persist.NewPayment{PurchaseRef: purchase, Status: status, Ref: c.ref(status), At: time.Now()})
	return err
}

// settled brings everything that is pending to Redis and waits until Postgres has what Redis has.
func (c *customer) settled() meter.Account {
	c.t.Helper()
	var account meter.Account
	require.Eventually(c.t, func() bool {
		for _, p := range c.purchases {
			s, err := c.admin.PurchaseState(context.Background(), p)
			if err != nil || !s.Applied {
				return false
			}
		}
		d, err := c.engine.Balance(context.Background(), c.name)
		if err != nil || d.Code != meter.CodeOK {
			return false
		}
		account = d.Account
		rows := c.query(c.t, `SELECT seq, (SELECT count(*) FROM creditgate.reversal WHERE account = $1 AND status = 'pending')
			+ (SELECT count(*) FROM creditgate.grant_lot WHERE account = $1 AND status = 'pending')
			+ (SELECT count(*) FROM creditgate.revocation WHERE account = $1 AND status = 'pending')
			FROM creditgate.account_state WHERE account = $1`, c.name)
		return rows[0][0] == int64(account.Seq) && rows[0][1] == int64(0)
	}, 30*time.Second, 5*time.Millisecond)
	return account
}

// check replays what happened through the reference model, compares the sums with Postgres, and Postgres with Redis.
func (c *customer) check() {
	c.t.Helper()
	a := c.settled()
	c.mirror.follow(c.t, c.house, c.seen.taken())
	c.mirror.requireSame(c.t, c.house, a)
	var available, held meter.Credits
	for _, g := range a.Grants {
		available, held = available+g.Available, held+g.Held
	}
	var reserved meter.Credits
	for _, r := range c.holds {
		reserved += r.Amount
	}
	require.Equal(c.t, reserved, held, "what is held is what was reserved")
	sums := c.query(c.t, `SELECT sum(granted)::bigint, sum(spent)::bigint, sum(lapsed)::bigint, sum(revoked)::bigint,
		sum(debt)::bigint FROM creditgate.grant_state WHERE account = $1`, c.name)[0]
	if sums[0] == nil {
		require.Zero(c.t, c.granted)
		return
	}
	sum := func(i int) meter.Credits { return meter.Credits(sums[i].(int64)) }
	frozen := c.query(c.t, `SELECT coalesce(sum(CASE kind WHEN 'revoke' THEN amount ELSE -amount END), 0)::bigint
		FROM creditgate.ledger_entry WHERE account = $1 AND reason IN ('frozen', 'unfrozen')`, c.name)[0][0].(int64)
	issued, superseded := c.issued()
	require.Equal(c.t, c.granted+issued, sum(0), "granted")
	require.Equal(c.t, c.spent, sum(1), "spent")
	require.Zero(c.t, sum(2), "lapsed")
	require.Equal(c.t, c.claimed+superseded+meter.Credits(frozen), sum(3)+sum(4), "taken back, and owed beside it")
	require.Equal(c.t, sum(0), available+held+sum(1)+sum(2)+sum(3), "granted = available + held + spent + lapsed + revoked")
}

// issued is what the subscription gave, and what of that was taken back before it began. What is in force is what the
// most slots give that were ever booked, in whatever order; what comes next is what was booked last.
func (c *customer) issued() (all, superseded meter.Credits) {
	c.t.Helper()
	const perSlot = 10 * meter.Credit
	row := c.query(c.t, `SELECT coalesce(sum(g.credits), 0)::bigint, coalesce(sum(r.credits), 0)::bigint,
			coalesce(sum(g.credits) FILTER (WHERE g.effective_at <= now()), 0)::bigint,
			coalesce(sum(g.credits) FILTER (WHERE g.effective_at > now() AND r.id IS NULL), 0)::bigint
		FROM creditgate.grant_lot g LEFT JOIN creditgate.revocation r ON r.grant_id = g.id AND r.reason = 'superseded'
		WHERE g.account = $1 AND g.actor = 'policy'`, c.name)[0]
	amount := func(i int) meter.Credits { return meter.Credits(row[i].(int64)) }
	require.Equal(c.t, meter.Credits(c.slots)*perSlot, amount(2), "in force, of at most %d slots", c.slots)
	if len(c.booked) > 0 {
		require.Contains(c.t, c.booked, uint32(amount(3)/perSlot), "what comes next")
	}
	c.booked = nil
	return amount(0), amount(1)
}

// Random schedules of buying, changing slots, requesting, refunding, disputing and not paying, one thing after another
// and up to four at once: whatever comes first, it is what the reference model does in the order of the ledger.
func TestPurchasePlay(t *testing.T) {
	t.Parallel()
	t.Run("in turn", func(t *testing.T) {
		t.Parallel()
		playPurchases(t, 1, 8)
	})
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		playPurchases(t, 4, 8)
	})
}

func playPurchases(t *testing.T, atOnce, rounds int) {
	t.Helper()
	h := openShop(t, "on_overdue: freeze")
	seen := &witness{Engine: h.engine}
	h.administer(t, seen)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := fmt.Sprintf("c%d", n)
		c := &customer{house: h, t: t, name: name, seen: seen, mirror: newMirror(name)}
		h.subscriber(t, c.name, "plus")
		for range rapid.IntRange(1, rounds).Draw(rt, "rounds") {
			var steps []func(context.Context) error
			for range rapid.IntRange(1, atOnce).Draw(rt, "at once") {
				steps = append(steps, c.step(rt))
			}
			errs := make([]error, len(steps))
			var work sync.WaitGroup
			for i, step := range steps {
				work.Go(func() { errs[i] = step(t.Context()) })
			}
			work.Wait()
			require.NoError(rt, errors.Join(slices.Clone(errs)...))
			c.check()
		}
	})
	h.conserved(t)
}
