package gateway

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// A reload on the control plane is for every gateway on the database: each reads its own files. The gateway that is asked
// reloads first, so that a mistake which all files share changes nothing anywhere. Then it numbers a request, which the
// others find within followEvery, also those that cannot reach Postgres now, as soon as they can. SIGHUP is for one.

// Timing of a reload of all gateways.
const (
	followEvery = time.Second            // between looks for a request
	followMax   = 2 * time.Second        // for Postgres to take one look
	reloadWait  = 5 * time.Second        // for all gateways to have followed
	reloadPoll  = 100 * time.Millisecond // between questions whether they have
	readEarly   = 5 * time.Second        // at most, between reading the files at the start and New
)

// follower is what this gateway has done about requests to reload.
type follower struct {
	one      sync.Mutex // look at a time
	begun    time.Time
	looked   bool
	followed int64 // the request; 0: none
}

// FollowReloads tells the other gateways which policies this one goes by, and reloads when one of them asks for it, until
// ctx ends.
func (g *Gateway) FollowReloads(ctx context.Context) {
	for ctx.Err() == nil {
		g.LookForReload(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(followEvery):
		}
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), followMax)
	defer cancel()
	if err := g.fleet.Leave(leaving); err != nil {
		g.outages.Log(g.log, err).Msg("other gateways wait for this one for a minute, should their policies be reloaded")
	}
}

// LookForReload does once what FollowReloads does every second: before a gateway serves, so that no reload misses it.
func (g *Gateway) LookForReload(ctx context.Context) {
	if err := g.follow(ctx); err != nil && ctx.Err() == nil {
		g.outages.Log(g.log, err).Msg("cannot look for a request to reload the policies; the next second tries again")
	}
}

// follow looks once. At the first look a request is followed already that was made before the files were read.
func (g *Gateway) follow(ctx context.Context) error {
	f := &g.following
	f.one.Lock()
	defer f.one.Unlock()
	newest, age, err := g.renew(ctx)
	if err != nil {
		return err
	}
	read := !f.looked && age > time.Since(f.begun)+readEarly
	f.looked = true
	if newest == f.followed { // it may be lower: Postgres was restored to an older copy
		return nil
	}
	if !read {
		g.log.Info().Int64("request", newest).Msg("all gateways are asked to reload their policies")
		_ = g.Reload(ctx) // it says by itself what is wrong, and the others read it
	}
	f.followed = newest
	_, _, err = g.renew(ctx)
	return err
}

func (g *Gateway) renew(ctx context.Context) (newest int64, age time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, followMax)
	defer cancel()
	s := Standing{Reload: g.following.followed, Policies: g.versions()}
	if why := g.refusal.Load(); why != nil {
		s.Error = *why
	}
	return g.fleet.Renew(ctx, s)
}

// versions are those in force, by product.
func (g *Gateway) versions() map[string]string {
	out := map[string]string{}
	for product, p := range g.policies.All() {
		out[product] = p.Version()
	}
	return out
}

// requestReload asks all gateways, of which this one has reloaded. Should others have asked in between, it does so again.
func (g *Gateway) requestReload(ctx context.Context) (number int64, err error) {
	f := &g.following
	f.one.Lock()
	defer f.one.Unlock()
	number, err = g.fleet.RequestReload(ctx)
	if err == nil && f.followed == number-1 {
		f.followed = number
	}
	return number, err
}

// reloadAll returns how all gateways stand when they have followed, or when it has waited enough.
func (g *Gateway) reloadAll() (number int64, all []Standing, err error) {
	ctx, cancel := context.WithTimeout(g.base, reloadWait+storageTimeout)
	defer cancel()
	if number, err = g.requestReload(ctx); err != nil {
		return 0, nil, err
	}
	if err := g.follow(g.base); err != nil { // its own row is as it should be then
		return 0, nil, err
	}
	for enough := time.Now().Add(reloadWait); ; {
		if all, err = g.fleet.Gateways(ctx); err != nil {
			return 0, nil, err
		}
		waits := false
		for _, s := range all {
			waits = waits || s.Reload < number
		}
		if !waits || time.Now().After(enough) {
			return number, all, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(reloadPoll):
		}
	}
}

// gatewayView is how one gateway followed a reload.
type gatewayView struct {
	Gateway  string            `json:"gateway"`
	Policies map[string]string `json:"policies"` // version by product
	Answered bool              `json:"answered"` // it has reloaded, or tried to
	Error    string            `json:"error,omitempty"`
	SeenAt   time.Time         `json:"seen_at"`
}

// fleetView is what a reload adds to the policies in force, and to a problem.
type fleetView struct {
	Gateways []gatewayView `json:"gateways"`
}

// answerReload is 200 where all gateways go by the same policies. Otherwise it is an error, although they are in force
// here: a deployment that looks at the status only must not go on.
func (g *Gateway) answerReload() (int, any, *problem) {
	number, all, err := g.reloadAll()
	if err != nil {
		return 0, nil, g.storageAnswer(err, "this gateway has reloaded its policies; whether the others did is not known, since "+
			"Postgres does not answer: repeat the call")
	}
	own := g.versions()
	view := fleetView{Gateways: []gatewayView{}}
	var differ []string
	again := true // waiting may help
	for _, s := range all {
		v := gatewayView{s.Name, s.Policies, s.Reload >= number, s.Error, s.SeenAt.UTC().Truncate(time.Millisecond)}
		view.Gateways = append(view.Gateways, v)
		switch {
		case !v.Answered:
			differ = append(differ, s.Name+" did not answer within "+reloadWait.String())
			continue
		case v.Error != "":
			differ = append(differ, s.Name+" keeps its policies, and its error says why")
		case !maps.Equal(v.Policies, own):
			differ = append(differ, s.Name+" has other files")
		default:
			continue
		}
		again = false
	}
	if len(differ) == 0 {
		return fasthttp.StatusOK, struct {
			policiesView
			fleetView
		}{g.policiesView(), view}, nil
	}
	p := &problem{
		code: codePoliciesDiffer, fleet: &view,
		detail: "the policies are in force on this gateway, but not on every one: " + strings.Join(differ, "; ") +
			". Give all the same files and repeat the call; a gateway that is dead counts for a minute after it was last seen",
	}
	if again {
		p.retryAfter = retrySoonSeconds
	}
	return 0, nil, p
}
