package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"creditgate/meter"
	"creditgate/persist/finance"
)

// books shows what finance sees, and compares it with what Redis says. verify comes first: it waits until Postgres has
// everything.
func books(ctx context.Context, s story, g *gateway) error {
	s.title("The books")
	said, err := g.verify(ctx)
	s.step("creditgate verify: Redis and Postgres agree", said, is("its status", "<nil>", err))
	database, err := asFinance(g.dev.PostgresURL)
	if err != nil {
		return err
	}
	entries, err := finance.Entries(ctx, database, "demo-plus")
	if err != nil {
		return err
	}
	balances, err := finance.Balances(ctx, database, "demo-plus")
	if err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	if err != nil {
		return err
	}
	rank := func(x finance.Balance) int {
		return slices.IndexFunc(b.Buckets, func(y bucket) bool { return y.Name == x.Bucket })
	}
	slices.SortFunc(balances, func(x, y finance.Balance) int { return rank(x) - rank(y) }) // as they are drained
	sum := meter.Credits(0)
	for _, e := range entries {
		sum += e.Credits
	}
	s.step("the sum of finance.entries is the balance", fmt.Sprintf("%s = %s + %s held", sum, b.Available, b.Held),
		is("sum", b.Available.Credits+b.Held.Credits, sum))
	var checks []check
	for _, x := range balances {
		checks = append(checks, is(x.Bucket, inRedis(b, x.Bucket), x.Credits))
	}
	s.step("finance.balances are the buckets in Redis", b.String(), append(checks, is("buckets", len(b.Buckets), len(balances)))...)
	s.title("finance.entries of demo-plus")
	s.text(table("SEQ\tENTRY\tKIND\tOPERATION\tUNITS\tBUCKET\tCREDITS", entries, func(e finance.Entry) string {
		return fmt.Sprintf("%d\t%s\t%s\t%s\t%d\t%s\t%s", e.Seq, e.EntryID, e.Kind, dash(e.Operation), e.Units,
			dash(e.Bucket), e.Credits)
	}))
	s.title("finance.balances of demo-plus")
	s.text(table("BUCKET\tGRANTED\tSPENT\tLAPSED\tREVOKED\tCREDITS", balances, func(x finance.Balance) string {
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", x.Bucket, x.Granted, x.Spent, x.Lapsed, x.Revoked, x.Credits)
	}))
	return nil
}

func inRedis(b balance, name string) meter.Credits {
	for _, x := range b.Buckets {
		if x.Name == name {
			return x.Available.Credits + x.Held.Credits
		}
	}
	return 0
}

// asFinance is the database as the login that creditgate dev makes for finance.
func asFinance(database string) (string, error) {
	u, err := url.Parse(database)
	if err != nil {
		return "", fmt.Errorf("postgres_url in dev.json: %w", err)
	}
	u.User = url.User("finance")
	return u.String(), nil
}

func table[T any](head string, rows []T, line func(T) string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, head)
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, line(r))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
