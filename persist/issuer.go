package persist

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter/policy"
)

// IssueOptions say how often. The zero value of each is a good one.
type IssueOptions struct {
	Every time.Duration // between rounds; default 5 s
	Page  int           // accounts of one transaction; default 500
}

// issueRetry is when an account is tried again that could not be given its grants, because it has too many already and
// nothing ends that makes room, or because something is wrong with it.
const issueRetry = time.Hour

// issueWait bounds one page: its transaction and its way to Redis.
const issueWait = 60 * time.Second

// Issuer gives subscriptions their grants a whole cycle ahead, so that a reset needs nobody at its moment: the grant that
// ends and the one that begins are both in Redis long before. It also gives anew what has not begun when another policy
// was loaded. Every gateway runs one; they share the accounts that are due among each other.
type Issuer struct {
	admin    *Admin
	options  IssueOptions
	said     sync.Mutex        // for loaded and warned: a move of the test clock runs a round beside Run's
	loaded   map[string]string // by product: the version that this gateway said it has
	warned   map[string]string // by product: the version of another gateway that the log has named
	accounts *prometheus.CounterVec
	grants   prometheus.Counter
	behind   prometheus.Gauge
	log      zerolog.Logger
}

// NewIssuer makes an issuer over admin's store, engine and policies.
func NewIssuer(admin *Admin, options IssueOptions, reg prometheus.Registerer, log zerolog.Logger) *Issuer {
	if options.Every == 0 {
		options.Every = 5 * time.Second
	}
	if options.Page == 0 {
		options.Page = 500
	}
	i := &Issuer{
		admin: admin, options: options, loaded: map[string]string{}, warned: map[string]string{}, log: log,
		accounts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_issuer_accounts_total",
			Help: "Accounts whose grants were issued ahead, and those that could not be: too many grants, or an error.",
		}, []string{"outcome"}),
		grants: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_issuer_grants_total", Help: "Grants issued ahead.",
		}),
		behind: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditgate_issuer_behind_seconds",
			Help: "How long the account has been due that waits longest, at the begin of the last round. A cycle is the reserve.",
		}),
	}
	i.accounts.WithLabelValues("issued")
	i.accounts.WithLabelValues("too many grants")
	i.accounts.WithLabelValues("failed")
	reg.MustRegister(i.accounts, i.grants, i.behind)
	return i
}

// Run issues until ctx ends. Rounds of several gateways are spread by chance.
func (i *Issuer) Run(ctx context.Context) {
	for pause := spread(i.options.Every); sleep(ctx, pause); {
		pause = spread(i.options.Every)
		if _, err := i.Issue(ctx); err != nil && ctx.Err() == nil {
			i.admin.outages.Log(i.log, err).Msg("issuing grants failed; the next round goes on")
			pause = min(pause, spread(retryMax))
		}
	}
}

// Issue runs one round to its end: until no account is due that another issuer does not have, nor was issued by another
// policy than the one in force. It returns how many grants were recorded. With Redis away it goes on: what is recorded
// is pending, and the sweeper's. A product that fails does not keep the others from it; the first error is returned.
func (i *Issuer) Issue(ctx context.Context) (n int, err error) {
	policies := i.admin.policies
	var products []string
	for product, p := range policies.All() {
		ours, err := i.inForce(ctx, product, p.Version())
		if err != nil {
			return 0, err
		}
		if ours {
			products = append(products, product)
		}
	}
	if err := i.measure(ctx); err != nil {
		return 0, err
	}
	for _, product := range products {
		p := policies.Policy(product)
		if p == nil {
			continue // replaced at this moment; the next round knows
		}
		issued, failed := i.issueProduct(ctx, product, p)
		n += issued
		if err == nil {
			err = failed
		}
		if ctx.Err() != nil {
			break
		}
	}
	return n, err
}

// inForce says that this gateway loaded a policy, when it did, and reports whether it is the one that was loaded last by
// any. Without it, gateways with different policies would take back each other's grants for ever.
func (i *Issuer) inForce(ctx context.Context, product, version string) (ours bool, err error) {
	i.said.Lock()
	defer i.said.Unlock()
	if before, said := i.loaded[product]; !said || before != version {
		var replaced *string
		err = i.admin.pool.QueryRow(ctx, `WITH before AS (SELECT version FROM creditgate.policy_in_force WHERE product = $1),
			now AS (INSERT INTO creditgate.policy_in_force AS f (product, version) VALUES ($1, $2)
				ON CONFLICT (product) DO UPDATE SET version = excluded.version, since = now()
				WHERE f.version <> excluded.version)
			SELECT (SELECT version FROM before)`, product, version).Scan(&replaced)
		if err != nil {
			return false, storeError("record the policy in force", err)
		}
		if !said && replaced != nil && *replaced != version {
			i.log.Warn().Str("product", product).Str("version", version).Str("before", *replaced).
				Msg("this gateway started with another policy than the one in force, and its own is in force now; gateways " +
					"that still have the other one price by it: give them the same files and reload them")
		}
		i.loaded[product] = version
	}
	var last string
	err = i.admin.pool.QueryRow(ctx, `SELECT version FROM creditgate.policy_in_force WHERE product = $1`, product).Scan(&last)
	if err != nil {
		return false, storeError("read the policy in force", err)
	}
	i.warnOfOther(product, version, last)
	return last == version, nil
}

// warnOfOther says once when another gateway has put another policy in force: this one then prices differently.
func (i *Issuer) warnOfOther(product, version, last string) {
	if last == version {
		delete(i.warned, product)
		return
	}
	if i.warned[product] != last {
		i.warned[product] = last
		i.log.Warn().Str("product", product).Str("version", version).Str("in_force", last).
			Msg("another gateway has put another policy in force; this one still prices by its own, and leaves issuing to the " +
				"others: give it the same files and reload it")
	}
}

func (i *Issuer) measure(ctx context.Context) error {
	var oldest *time.Time
	err := i.admin.pool.QueryRow(ctx, `SELECT min(due_at) FROM unnest($1::text[]) p (product), LATERAL (
		SELECT due_at FROM creditgate.subscription_due WHERE product = p.product AND due_at IS NOT NULL
		ORDER BY due_at LIMIT 1) d`, i.admin.policies.Products()).Scan(&oldest)
	behind := 0.0
	if oldest != nil {
		behind = max(0, i.admin.clock.Now().Sub(*oldest).Seconds())
	}
	i.behind.Set(behind)
	return storeError("measure issuing", err)
}

// The accounts that are due, and those whose grants follow another policy: each goes along an index that begins with the
// product, so that a page does not pass over what other products have due, nor over what pages before it have done. The
// account's lock is taken, as every change of an account does first; what another issuer or a change has is left to it. So is
// an account that is quarantined: it may have been given its grants before Postgres lost them.
const (
	dueAccounts = `SELECT d.account FROM creditgate.subscription_due d JOIN creditgate.account a ON a.id = d.account
		WHERE d.product = $1 AND a.product = $1 AND d.due_at <= $2
			AND NOT EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = a.id)
		ORDER BY d.due_at LIMIT $3 FOR NO KEY UPDATE OF a SKIP LOCKED`
	outdatedBefore = `SELECT d.account FROM creditgate.subscription_due d JOIN creditgate.account a ON a.id = d.account
		WHERE d.product = $1 AND a.product = $1 AND d.policy_version < $2
			AND NOT EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = a.id)
		ORDER BY d.policy_version LIMIT $3 FOR NO KEY UPDATE OF a SKIP LOCKED`
	outdatedAfter = `SELECT d.account FROM creditgate.subscription_due d JOIN creditgate.account a ON a.id = d.account
		WHERE d.product = $1 AND a.product = $1 AND d.policy_version > $2
			AND NOT EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = a.id)
		ORDER BY d.policy_version LIMIT $3 FOR NO KEY UPDATE OF a SKIP LOCKED`
)

// issueProduct goes through what is due when it begins: an account that is to be looked at again in seconds waits for the
// next round, or a round of many of them would never end.
func (i *Issuer) issueProduct(ctx context.Context, product string, p *policy.Policy) (n int, err error) {
	due := i.admin.clock.Now().Truncate(time.Millisecond).UTC()
	for _, query := range [...]string{outdatedBefore, outdatedAfter, dueAccounts} {
		for {
			accounts, grants, err := i.page(ctx, p, query, product, due)
			n += grants
			if err != nil || accounts == 0 {
				if err != nil {
					return n, err
				}
				break
			}
			if ctx.Err() != nil {
				return n, ctx.Err()
			}
		}
	}
	return n, nil
}

// page issues for one page of accounts. If something is wrong with one of them, each is tried alone. Its time is its own:
// a round may take many minutes, and what was made long ago the sweeper would apply once more.
func (i *Issuer) page(
	ctx context.Context, p *policy.Policy, query, product string, due time.Time,
) (accounts, grants int, err error) {
	now := i.admin.clock.Now().Truncate(time.Millisecond).UTC()
	arg := any(p.Version())
	if query == dueAccounts {
		arg = due
	}
	var names []string
	grants, err = i.give(ctx, p, now, product, func(tx pgx.Tx) (_ []string, err error) {
		rows, err := tx.Query(ctx, query, product, arg, i.options.Page)
		if err == nil {
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return names, err
	})
	if passes(ctx, err) && len(names) > 0 {
		i.log.Warn().Err(err).Int("accounts", len(names)).Msg("a page of accounts could not be given its grants; trying one by one")
		grants, err = i.oneByOne(ctx, p, now, product, names)
	}
	return len(names), grants, err
}

// passes reports whether an error says something about what was asked, rather than about Postgres at this moment: it
// would be the same at the next try, and ever after.
func passes(ctx context.Context, err error) bool {
	return err != nil && !errors.Is(err, ErrUnavailable) && ctx.Err() == nil
}

// oneByOne issues for each account in a transaction of its own. One that fails is tried again in an hour, so that it
// keeps nobody else waiting; its grants are issued a cycle ahead, which is the reserve.
func (i *Issuer) oneByOne(
	ctx context.Context, p *policy.Policy, now time.Time, product string, names []string,
) (grants int, err error) {
	for _, name := range names {
		lock := func(tx pgx.Tx) ([]string, error) {
			rows, err := tx.Query(ctx, `SELECT id FROM creditgate.account WHERE id = $1 AND product = $2
				FOR NO KEY UPDATE SKIP LOCKED`, name, product)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, pgx.RowTo[string])
		}
		n, err := i.give(ctx, p, now, product, lock)
		grants += n
		if passes(ctx, err) {
			i.accounts.WithLabelValues("failed").Inc()
			i.log.Error().Err(err).Str("account", name).
				Msg("a subscription could not be given its grants; it is tried again in an hour")
			err = i.later(ctx, p, now, product, lock)
		}
		if err != nil {
			return grants, err
		}
	}
	return grants, nil
}

// later records that accounts are due in an hour.
func (i *Issuer) later(
	ctx context.Context, p *policy.Policy, now time.Time, product string, lock func(pgx.Tx) ([]string, error),
) error {
	return i.admin.tx(ctx, "put off issuing grants of "+product, func(tx pgx.Tx) error {
		b := newBatch(now)
		names, err := lock(tx)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			b.done = append(b.done, issued{name, product, p.Version(), now, now.Add(issueRetry)})
		}
		return writeDue(ctx, tx, b)
	})
}

// give issues for the accounts that lock finds and locks: recorded in one transaction, then applied side by side.
func (i *Issuer) give(
	ctx context.Context, p *policy.Policy, now time.Time, product string, lock func(pgx.Tx) ([]string, error),
) (grants int, err error) {
	ctx, cancel := context.WithTimeout(ctx, issueWait)
	defer cancel()
	b := newBatch(now)
	var changes []pendingID
	full := 0
	err = i.admin.tx(ctx, "issue grants of "+product, func(tx pgx.Tx) error {
		names, err := lock(tx)
		if err != nil || len(names) == 0 {
			return err
		}
		all, err := subscribers(ctx, tx, names, now)
		if err != nil {
			return err
		}
		for _, name := range names {
			err := b.add(all[name], p)
			if errors.Is(err, ErrTooManyGrants) {
				full++
				i.log.Warn().Err(err).Msg("a subscription could not be given its grants; it is tried again within an hour")
				b.crowd(all[name], p)
			} else if err != nil {
				return err
			}
		}
		changes, err = i.admin.write(ctx, tx, b)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, c := range changes {
		if c.kind == grantChange {
			grants++
		}
	}
	i.accounts.WithLabelValues("issued").Add(float64(len(b.done) - full))
	i.accounts.WithLabelValues("too many grants").Add(float64(full))
	i.grants.Add(float64(grants))
	if !i.admin.applyAll(ctx, changes) {
		i.log.Warn().Int("changes", len(changes)).Msg("Redis does not have all grants that were issued; the sweeper goes on")
	}
	return grants, nil
}
