package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/netip"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// apiKeyMax bounds what is hashed for a caller who has not proved anything yet.
const apiKeyMax = 256

// authenticator turns a request into an Identity.
type authenticator struct {
	cache         *keyCache
	source        Identities
	byKey         lookup // made once: a method value is an allocation
	byAccount     lookup
	trusted       []netip.Prefix
	accountHeader string
}

// authenticate finds out who asks.
func (g *Gateway) authenticate(x *exchange) *problem {
	who, err := g.auth.identify(g.base, x)
	if err != nil {
		return g.stranger(x, err)
	}
	x.who = who
	return nil
}

// checkSuspension refuses what a suspended account asks for, free operations included, but not what only shows the
// account: its holder may see what is left and how it came to that.
func (g *Gateway) checkSuspension(x *exchange) *problem {
	if !x.who.Suspended || x.own && x.method == fasthttp.MethodGet {
		return nil
	}
	return &problem{code: codeSuspended, detail: "account " + x.who.Account + " is suspended: nothing can be " +
		"spent until the operator lifts that; GET " + g.set.Prefix + "/balance and " + g.set.Prefix + "/history still work"}
}

// stranger says why nobody is behind a request.
func (g *Gateway) stranger(x *exchange, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if errors.Is(err, ErrUnknown) {
		return &problem{code: codeUnauthenticated, detail: "the API key or account is not known, or the key was revoked"}
	}
	g.failing(x, err).Msg("cannot look up an API key")
	return meteringUnavailable("the API key cannot be checked at the moment")
}

// Error lets a refusal travel as an error inside the authenticator.
func (p *problem) Error() string { return p.detail }

func (a *authenticator) identify(ctx context.Context, x *exchange) (Identity, error) {
	if names := a.namedAccounts(x); len(names) > 0 {
		name := names[0]
		account := string(name)
		if len(names) > 1 { // one of them may be the client's, let through by the peer
			return Identity{}, &problem{code: codeUnauthenticated, detail: a.accountHeader + " is there twice"}
		}
		if !meter.ValidName(account) {
			return Identity{}, &problem{code: codeUnauthenticated, detail: a.accountHeader + " does not name an account"}
		}
		return a.cache.get(ctx, x.arrived, cacheKey{hash: sha256.Sum256(name), account: account}, a.byAccount)
	}
	key, err := apiKey(x.head.authorization, x.head.apiKey)
	if err != nil {
		return Identity{}, err
	}
	return a.cache.get(ctx, x.arrived, cacheKey{hash: sha256.Sum256(key)}, a.byKey)
}

// namedAccounts are the values of the account header, if the peer may send it.
func (a *authenticator) namedAccounts(x *exchange) [][]byte {
	if !a.trusts(x.peer) {
		return nil
	}
	return x.ctx.Request.Header.PeekAll(a.accountHeader)
}

func newAuthenticator(cache *keyCache, source Identities, trusted []netip.Prefix, accountHeader string) *authenticator {
	return &authenticator{
		cache: cache, source: source, trusted: trusted, accountHeader: accountHeader,
		byKey: func(ctx context.Context, k cacheKey) (Identity, error) {
			return source.IdentityByKey(ctx, k.hash)
		},
		byAccount: func(ctx context.Context, k cacheKey) (Identity, error) {
			return source.IdentityByAccount(ctx, k.account)
		},
	}
}

func (a *authenticator) trusts(peer netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// apiKey takes the key from either header, as a part of it. Two different keys are refused, since only one of them can
// be meant.
func apiKey(authorization, xAPIKey []byte) ([]byte, error) {
	var bearer []byte
	if len(authorization) > 0 {
		scheme, rest, _ := bytes.Cut(authorization, []byte(" "))
		if !bytes.EqualFold(scheme, []byte("Bearer")) {
			return nil, &problem{code: codeUnauthenticated, detail: "the Authorization header must be: Bearer <API key>"}
		}
		bearer = bytes.TrimSpace(rest)
	}
	switch {
	case len(bearer) == 0 && len(xAPIKey) == 0:
		return nil, &problem{
			code:   codeUnauthenticated,
			detail: "send the API key as Authorization: Bearer <key> or as X-Api-Key",
		}
	case len(bearer) > 0 && len(xAPIKey) > 0 && !bytes.Equal(bearer, xAPIKey):
		return nil, &problem{code: codeUnauthenticated, detail: "Authorization and X-Api-Key carry different keys; send one"}
	case len(bearer) == 0:
		bearer = xAPIKey
	}
	if len(bearer) > apiKeyMax {
		return nil, &problem{code: codeUnauthenticated, detail: "the API key is too long"}
	}
	return bearer, nil
}
