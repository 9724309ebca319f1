package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"creditgate/meter/policy"
)

// Credit keeps the place in the drain order that it was granted with. An order that gives a bucket another place would
// count for what is granted from then on only, and two lots of one bucket would be drawn at two places.

// moved refuses policies that give another place to a bucket that accounts hold credit in.
func (g *Gateway) moved(ctx context.Context, fresh map[string]*policy.Policy) error {
	var products []string
	for name, p := range g.policies.All() {
		if next := fresh[name]; next != nil && !extends(next.Buckets, p.Buckets) {
			products = append(products, name)
		}
	}
	if len(products) == 0 {
		return nil
	}
	errs, err := g.misplaced(ctx, fresh, products)
	if err != nil {
		return fmt.Errorf("buckets have other places, and what accounts hold in them cannot be counted: %w", err)
	}
	return errors.Join(errs...)
}

// extends reports whether next only appends to the order.
func extends(next, order []string) bool {
	return len(next) >= len(order) && slices.Equal(next[:len(order)], order)
}

// CheckDrainOrder logs each bucket with credit that was granted at another place than the policies in force give it. It
// is for the start, which does not refuse them: all accounts would be without service then, for an order that is wrong
// for some, and each account's credit is spent all the same.
func (g *Gateway) CheckDrainOrder(ctx context.Context) {
	errs, err := g.misplaced(ctx, maps.Collect(g.policies.All()), g.policies.Products())
	if err != nil {
		g.outages.Log(g.log, err).Msg("whether the drain order is the one that credit was granted by is not known")
	}
	for _, err := range errs {
		g.log.Error().Err(err).Msg("drain order differs from the one that credit was granted by")
	}
}

// misplaced are the buckets of products whose credit has another place than rules give it.
func (g *Gateway) misplaced(ctx context.Context, rules map[string]*policy.Policy, products []string) (errs []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, policyUseTimeout)
	defer cancel()
	uses, err := g.source.BucketUses(ctx, products, func(product, bucket string, place uint8) bool {
		rank, there := rules[product].Rank(bucket)
		return !there || rank != place
	})
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		now := "is gone"
		if rank, there := rules[u.Product].Rank(u.Bucket); there {
			now = fmt.Sprintf("has place %d", rank+1)
		}
		errs = append(errs, fmt.Errorf("%s: buckets: %q %s, and credit of %s in it was granted at place %d, which it keeps; "+
			"keep the old order and append new buckets at its end", u.Product, u.Bucket, now, accountsText(u.Accounts), u.Rank+1))
	}
	return errs, nil
}
