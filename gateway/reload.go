package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter/policy"
)

// Replacing the policies in force. All files are read and checked before any of them counts, then all count at once:
// catalogs are exchanged by one pointer. A request that has begun keeps the policy it was matched by, from its price to
// its settlement, and its reservation carries that version into the ledger.

// policyUseTimeout bounds the count of the accounts that a change would leave without rules. It reads every account of
// their products, but only where something is missing.
const policyUseTimeout = 30 * time.Second

// Reload reads this gateway's policy files anew and puts them in force. On any error those in force stay, and nothing is lost. It
// may be called at any time, by a signal or by the control plane.
func (g *Gateway) Reload(ctx context.Context) error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	fresh, err := g.source.Load()
	if err == nil {
		err = errors.Join(g.missed(ctx, fresh), g.moved(ctx, fresh))
	}
	if err != nil {
		g.metrics.reloads.WithLabelValues("refused").Inc()
		g.log.Error().Strs("problems", problemLines(err)).Msg("policies not reloaded: those in force stay")
		why := err.Error()
		g.refusal.Store(&why)
		return err
	}
	before := maps.Collect(g.policies.All())
	g.policies.Replace(fresh)
	g.refusal.Store(nil)
	g.metrics.resolve(g.policies)
	g.metrics.reloads.WithLabelValues("loaded").Inc()
	g.metrics.loaded.SetToCurrentTime()
	for _, product := range g.policies.Products() {
		old := "none"
		if p := before[product]; p != nil {
			old = p.Version()
		}
		g.log.Info().Str("product", product).Str("version", fresh[product].Version()).Str("before", old).Msg("policy reloaded")
	}
	return nil
}

// missed refuses policies without a product that accounts belong to, or without a plan that subscriptions are on: those
// accounts would have no price, or no renewal.
func (g *Gateway) missed(ctx context.Context, fresh map[string]*policy.Policy) error {
	if len(fresh) == 0 {
		return errors.New("there is no policy file")
	}
	var products []string
	for name, p := range g.policies.All() {
		if next := fresh[name]; next == nil || lacksPlan(next, p) {
			products = append(products, name)
		}
	}
	if len(products) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, policyUseTimeout)
	defer cancel()
	uses, err := g.source.Uses(ctx, products)
	if err != nil {
		return fmt.Errorf("products or plans are gone from the files, and their accounts cannot be counted: %w", err)
	}
	var errs []error
	for _, u := range uses {
		switch next := fresh[u.Product]; {
		case next == nil && u.Plan == "":
			errs = append(errs, fmt.Errorf("%s: no file describes this product any more, and it has %s; "+
				"bring its file back, or move the accounts first", u.Product, accountsText(u.Accounts)))
		case next != nil && u.Plan != "" && !hasPlan(next, u.Plan):
			errs = append(errs, fmt.Errorf("%s: plans.%s is gone, and it has %s now or to come; "+
				"keep the plan, or move the subscriptions first", u.Product, u.Plan, accountsText(u.Accounts)))
		}
	}
	return errors.Join(errs...)
}

func accountsText(n int64) string {
	if n == 1 {
		return "1 account"
	}
	return strconv.FormatInt(n, 10) + " accounts"
}

// lacksPlan reports whether next misses a plan that p has.
func lacksPlan(next, p *policy.Policy) bool {
	return slices.ContainsFunc(p.Plans, func(l *policy.Plan) bool { return !hasPlan(next, l.Name) })
}

func hasPlan(p *policy.Policy, name string) bool {
	_, ok := p.Plan(name)
	return ok
}

// policyProblem is one mistake as the answer shows it. Line and column are 0 where a file as a whole is meant.
type policyProblem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Path   string `json:"path"`
	Detail string `json:"detail"`
}

// policyProblems are what an invalid-policy problem adds: every mistake in every file.
type policyProblems struct {
	Problems []policyProblem `json:"problems"`
}

// policyMistakes takes joined errors apart into their mistakes.
func policyMistakes(err error) (out []policyProblem) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			out = append(out, policyMistakes(e)...)
		}
		return out
	}
	file, ok := errors.AsType[*policy.FileError](err)
	if !ok {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			out = append(out, policyProblem{Detail: line})
		}
		return out
	}
	for _, p := range file.Problems {
		out = append(out, policyProblem{p.File, p.Line, p.Column, p.Path, p.Detail})
	}
	return out
}

func problemLines(err error) []string { return strings.Split(err.Error(), "\n") }

// postReload answers with what is in force and where, or with every mistake in this gateway's files.
func (g *Gateway) postReload(c *call) (int, any, *problem) {
	if len(c.ctx.PostBody()) > 0 {
		var none struct{}
		if p := c.decode(&none); p != nil {
			return 0, nil, p
		}
	}
	err := g.Reload(g.base)
	if err == nil {
		return g.answerReload()
	}
	return 0, nil, &problem{
		code:     codeInvalidPolicy,
		detail:   "the policies were not reloaded, and those in force stay; no other gateway was asked: " + err.Error(),
		mistakes: &policyProblems{policyMistakes(err)},
	}
}
