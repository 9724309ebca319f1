package gateway

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

type accountBody struct {
	Product   *string `json:"product"`
	Suspended *bool   `json:"suspended"`
}

type accountView struct {
	Account   string `json:"account"`
	Product   string `json:"product"`
	Suspended bool   `json:"suspended"`
	CreatedAt string `json:"created_at"`
	Applied   bool   `json:"applied"`
}

func newAccountView(a AccountState) accountView {
	return accountView{a.Account, a.Product, a.Suspended, timeText(a.CreatedAt), a.Applied}
}

// putAccount creates an account or changes what the body names; repeating it changes nothing.
func (g *Gateway) putAccount(c *call) (int, any, *problem) {
	var b accountBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	if b.Product != nil && g.policies.Policy(*b.Product) == nil {
		return 0, nil, &problem{
			code: codeInvalid, param: "product",
			detail: "product " + strconv.Quote(shorten(*b.Product)) + " has no policy here; there are policies of " +
				strings.Join(g.policies.Products(), ", "),
		}
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	a, err := g.admin.PutAccount(ctx, AccountChange{
		Account: c.names[0], Product: b.Product, Suspended: b.Suspended, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	return changed(a.Applied, !a.Created), newAccountView(a), nil
}

func (g *Gateway) readAdminAccount(account string) (AccountState, error) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	return g.admin.AccountState(ctx, account)
}

func (g *Gateway) getAccount(c *call) (int, any, *problem) {
	a, err := g.readAdminAccount(c.names[0])
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	return fasthttp.StatusOK, newAccountView(a), nil
}

type keyBody struct {
	ExternalRef string `json:"external_ref"`
}

type keyView struct {
	ID  string `json:"id"`
	Key string `json:"key,omitempty"`
}

// postKey makes an API key and shows it, once. Only its hash is stored, so a repeat can name it but not show it.
func (g *Gateway) postKey(c *call) (int, any, *problem) {
	var b keyBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, false)
	if p != nil {
		return 0, nil, p
	}
	secret := newAPIKey()
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	k, err := g.admin.CreateKey(ctx, NewKey{
		Account: c.names[0], KeyID: meter.NewID(g.clock.Now()).String(), Hash: sha256.Sum256([]byte(secret)),
		Ref: ref, Actor: c.actor,
	})
	switch {
	case err != nil:
		return 0, nil, g.storageProblem(err)
	case k.Repeated:
		return fasthttp.StatusOK, keyView{ID: k.KeyID}, nil
	}
	return fasthttp.StatusCreated, keyView{ID: k.KeyID, Key: secret}, nil
}

// newAPIKey is 256 random bits behind the prefix that image clients expect of a key.
func newAPIKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "sk-" + base64.RawURLEncoding.EncodeToString(b[:])
}

func (g *Gateway) deleteKey(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	if err := g.admin.RevokeKey(ctx, c.names[0], c.names[1], c.actor); err != nil {
		return 0, nil, g.storageProblem(err)
	}
	g.auth.cache.outdated(c.names[0])
	return fasthttp.StatusNoContent, nil, nil
}

func (g *Gateway) getEntries(c *call) (int, any, *problem) {
	q, p := readHistoryQuery(c.names[0], c.query, func() (*time.Location, *problem) {
		a, err := g.readAdminAccount(c.names[0])
		if err != nil {
			return nil, g.storageProblem(err)
		}
		return g.zoneOf(a.Product), nil
	})
	if p != nil {
		return 0, nil, p
	}
	v, p := g.history(q)
	return fasthttp.StatusOK, v, p
}

type policyView struct {
	Product    string          `json:"product"`
	Version    string          `json:"version"`
	Timezone   string          `json:"timezone"`
	Buckets    []string        `json:"buckets"`
	Unmatched  string          `json:"unmatched"`
	Operations []operationView `json:"operations"`
}

type operationView struct {
	Name  string `json:"name"`
	Match string `json:"match"`
	Free  bool   `json:"free"`
	Max   uint32 `json:"max"`
}

// getPolicy shows the rules in force, by product.
func (g *Gateway) getPolicy(*call) (int, any, *problem) {
	return fasthttp.StatusOK, g.policiesView(), nil
}

type policiesView struct {
	Policies []policyView `json:"policies"`
}

func (g *Gateway) policiesView() policiesView {
	out := policiesView{Policies: []policyView{}}
	for product, p := range g.policies.All() {
		v := policyView{
			Product: product, Version: p.Version(), Timezone: p.Location.String(), Buckets: p.Buckets,
			Unmatched: "refuse", Operations: []operationView{},
		}
		if p.Pass {
			v.Unmatched = "pass"
		}
		for _, op := range p.Operations {
			v.Operations = append(v.Operations, operationView{op.Name, op.Method + " " + op.Path, op.Free(), op.Max})
		}
		out.Policies = append(out.Policies, v)
	}
	return out
}
