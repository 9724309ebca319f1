package gateway

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
)

// tellChange logs each call that changes something, done or refused. Which rows it wrote, and by whom, is in view
// creditgate.audit.
func (g *Gateway) tellChange(c *call) {
	if c.static == "none" || c.actor == "" || c.ctx.IsGet() {
		return
	}
	account, target := "", c.names[0]
	if strings.HasPrefix(c.static, "/v1/accounts/") {
		account, target = c.names[0], c.names[1]
	}
	if target == "" {
		target = c.target
	}
	level, what, status := zerolog.InfoLevel, "control plane change", c.ctx.Response.StatusCode()
	switch status / 100 {
	case 5:
		what = "control plane change failed"
	case 4:
		what = "control plane change refused"
	}
	if strings.HasPrefix(c.static, "/v1/reservations") {
		level = zerolog.DebugLevel // services that meter themselves make several calls a charge, and the ledger has these
	}
	g.log.WithLevel(level).Str("actor", c.actor).Str("route", string(c.ctx.Method())+" "+c.static).Str("account", account).
		Str("target", target).Int("status", status).Str("request_id", c.id).
		Stringer("peer", peerOf(c.ctx)).Msg(what)
}

func (v keyView) target() string         { return v.ID }
func (v grantView) target() string       { return v.GrantID.String() }
func (v revocationView) target() string  { return v.RevocationID.String() }
func (v purchaseView) target() string    { return v.PurchaseRef }
func (v reservationView) target() string { return v.ID }

// Bounds of what wrong admin tokens cost. A right token is never delayed, also from a peer that sent wrong ones: behind a
// proxy, and on this host, everybody has one address.
const (
	refusedWindow  = time.Minute // over which a peer's wrong tokens are one line more, with their number
	refusedFree    = 5           // wrong tokens of a peer in a window that are answered at once
	refusedDelay   = time.Second // what each further one waits for its 401
	refusedWaiting = 64          // that wait at a time; beyond it the connection is closed
	refusedPeers   = 1024        // that are told apart; beyond it they are one
)

// refusedTokens slows wrong admin tokens down, and logs the first of a peer and how many followed.
type refusedTokens struct {
	log     zerolog.Logger
	window  time.Duration
	waiting chan struct{}

	mu    sync.Mutex
	peers map[netip.Addr]int // wrong tokens in the peer's window
}

func newRefusedTokens(log zerolog.Logger, window time.Duration) *refusedTokens {
	return &refusedTokens{
		log: log, window: window, waiting: make(chan struct{}, refusedWaiting), peers: map[netip.Addr]int{},
	}
}

// one counts a wrong token, and returns when it may be answered. A call without a token guesses at none, and is answered
// at once.
func (r *refusedTokens) one(ctx context.Context, c *call) {
	if len(c.head.authorization) == 0 {
		return
	}
	peer := peerOf(c.ctx)
	n := r.count(peer)
	if n == 1 {
		r.log.Warn().Stringer("peer", peer).Str("request_id", c.id).Msg("wrong admin token")
	}
	if n <= refusedFree {
		return
	}
	select {
	case r.waiting <- struct{}{}:
		defer func() { <-r.waiting }()
	default:
		c.ctx.Response.SetConnectionClose()
		return
	}
	select {
	case <-time.After(refusedDelay):
	case <-ctx.Done():
	}
}

func (r *refusedTokens) count(peer netip.Addr) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[peer] == 0 && len(r.peers) >= refusedPeers {
		peer = netip.Addr{}
	}
	if r.peers[peer]++; r.peers[peer] == 1 {
		time.AfterFunc(r.window, func() { r.forget(peer) })
	}
	return r.peers[peer]
}

// forget ends a peer's window.
func (r *refusedTokens) forget(peer netip.Addr) {
	r.mu.Lock()
	n := r.peers[peer]
	delete(r.peers, peer)
	r.mu.Unlock()
	if n > 1 {
		r.log.Warn().Stringer("peer", peer).Int("tokens", n).Dur("within", r.window).Msg("wrong admin tokens")
	}
}

func peerOf(ctx *fasthttp.RequestCtx) netip.Addr {
	addr, _ := netip.ParseAddrPort(ctx.RemoteAddr().String())
	return addr.Addr().Unmap()
}
