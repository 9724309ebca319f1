package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// Pages of history.
const (
	historyDefault = 50
	historyMax     = 500
)

// account serves the gateway's own routes on the data plane: what a customer may know about their own credits.
func (g *Gateway) account(x *exchange) *problem {
	x.outcome = outcomeAccount
	rest := strings.TrimPrefix(x.path, g.set.Prefix)
	if path, ok := strings.CutPrefix(rest, "/quote/"); ok && x.method == fasthttp.MethodPost {
		return g.quote(x, "/"+path)
	}
	if x.method != fasthttp.MethodGet {
		return noRoute(x.method, x.path)
	}
	if rest != "/usage" && rest != "/history" {
		if _, p := readQuery(x.query); p != nil {
			return p
		}
	}
	if id, ok := strings.CutPrefix(rest, "/reservations/"); ok {
		return g.ownReservation(x, id)
	}
	switch rest {
	case "/balance":
		view, p := g.balance(&x.who)
		return x.answer(view, p)
	case "/packs":
		view, p := g.packs(&x.who)
		return x.answer(view, p)
	case "/usage":
		view, p := g.usage(&x.who, x.query)
		return x.answer(view, p)
	case "/history":
		return g.ownHistory(x)
	}
	return noRoute(x.method, x.path)
}

func (g *Gateway) ownHistory(x *exchange) *problem {
	q, p := readHistoryQuery(x.who.Account, x.query, func() (*time.Location, *problem) {
		return g.zoneOf(x.who.Product), nil
	})
	if p != nil {
		return p
	}
	view, p := g.history(q)
	return x.answer(view, p)
}

func noRoute(method, path string) *problem {
	return &problem{code: codeNotFound, detail: "there is no " + method + " " + path + " here"}
}

// answer writes v as the response, or passes the problem on.
func (x *exchange) answer(v any, p *problem) *problem {
	if p != nil {
		return p
	}
	if p = writeJSON(&x.ctx.Response, fasthttp.StatusOK, v); p == nil {
		x.ctx.Response.Header.Set("X-Request-Id", x.requestID())
		if !x.bodyRead {
			x.abandonBody()
		}
	}
	return p
}

func writeJSON(resp *fasthttp.Response, status int, v any) *problem {
	body, err := json.Marshal(v)
	if err != nil {
		return &problem{code: codeInternal, detail: "the answer cannot be written as JSON"}
	}
	resp.SetStatusCode(status)
	resp.Header.SetContentType("application/json")
	resp.Header.Set("Cache-Control", "no-store")
	resp.SetBodyRaw(body)
	return nil
}

func (g *Gateway) readAccount(account string) (meter.Decision, *problem) {
	ctx, cancel := g.within(g.set.SettleBudget)
	defer cancel()
	d, err := g.lookup.Balance(ctx, account)
	switch {
	case errors.Is(err, meter.ErrNoAccount):
		return d, &problem{code: codeNotFound, detail: "there is no account " + account}
	case err != nil || d.Code != meter.CodeOK:
		g.outages.Log(g.log, err).Uint8("code", uint8(d.Code)).Str("account", account).Msg("cannot read a balance")
		return d, meteringUnavailable("the balance cannot be read at the moment")
	}
	return d, nil
}

// history reads one page of entries, newest first.
func (g *Gateway) history(q HistoryQuery) (historyView, *problem) {
	limit := q.Limit
	q.Limit++ // one more tells whether there is another page
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	entries, err := g.ledger.Entries(ctx, q)
	if err != nil {
		return historyView{}, g.readProblem(err)
	}
	more := len(entries) > limit
	return newHistoryView(entries[:min(limit, len(entries))], more), nil
}

func cursorText(seq uint64) string { return strconv.FormatUint(seq, 10) }

// ownReservation shows a reservation of the caller's account; anybody else's does not exist.
func (g *Gateway) ownReservation(x *exchange, text string) *problem {
	id, err := meter.ParseReservationID(text)
	if err != nil {
		return &problem{code: codeNotFound, detail: notAReservation(text)}
	}
	r, p := g.readReservation(id)
	if p == nil && r.Account != x.who.Account {
		p = noReservation(id)
	}
	if p != nil {
		return p
	}
	return x.answer(newReservationView(r, g.bucketsFor(r)), nil)
}

func noReservation(id meter.ReservationID) *problem {
	return &problem{code: codeNotFound, detail: "there is no reservation " + id.String()}
}

func (g *Gateway) readReservation(id meter.ReservationID) (meter.Reservation, *problem) {
	ctx, cancel := g.within(g.set.SettleBudget)
	defer cancel()
	d, err := g.lookup.Reservation(ctx, id)
	switch {
	case errors.Is(err, meter.ErrNoReservation):
		return meter.Reservation{}, noReservation(id)
	case err != nil || d.Code != meter.CodeOK:
		g.outages.Log(g.log, err).Uint8("code", uint8(d.Code)).Stringer("reservation", id).Msg("cannot read a reservation")
		return meter.Reservation{}, meteringUnavailable("the reservation cannot be read at the moment")
	}
	return d.Reservation, nil
}

// bucketsFor names the buckets a reservation drew from: from the account while its grants live, else from Postgres.
// If neither answers the names stay empty, and the ids say which grants they were.
func (g *Gateway) bucketsFor(r meter.Reservation) map[meter.ID]string {
	if len(r.Draws) == 0 {
		return nil
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	names := map[meter.ID]string{}
	if d, err := g.lookup.Balance(ctx, r.Account); err == nil && d.Code == meter.CodeOK {
		names = bucketsOf(d.Account)
	}
	var missing []meter.ID
	for _, d := range r.Draws {
		if names[d.Grant] == "" {
			missing = append(missing, d.Grant)
		}
	}
	if len(missing) > 0 {
		g.addBuckets(ctx, r.Account, missing, names)
	}
	return names
}

func (g *Gateway) addBuckets(ctx context.Context, account string, missing []meter.ID, names map[meter.ID]string) {
	found, err := g.ledger.Buckets(ctx, account, missing)
	if err != nil {
		g.outages.Log(g.log, err).Str("account", account).Msg("cannot name the buckets of a reservation")
	}
	maps.Copy(names, found)
}

// quote prices a request as if it were made, and holds nothing.
func (g *Gateway) quote(x *exchange, path string) *problem {
	g.passHeaders(x)
	if p := g.readBody(x); p != nil {
		return p
	}
	var p *problem
	for _, method := range quotable() {
		if p = g.match(x, method, path); p == nil && x.op != nil {
			break
		}
	}
	if x.op == nil {
		return &problem{code: codeUnpriced, detail: path + " is not an operation of " + x.who.Product}
	}
	if p := g.assess(x); p != nil {
		return p
	}
	q := x.quote
	d, p := g.readAccount(x.who.Account)
	if p != nil {
		return p
	}
	draws := meter.PlanDraws(d.Account.Grants, q.Credits, d.NowMs)
	out := quoteView{
		Operation: x.op.Name, Units: q.Units, Credits: q.Credits, Affordable: q.Credits == 0 || draws != nil,
		Draws: drawViews(draws, bucketsOf(d.Account)),
	}
	if !out.Affordable {
		w := g.wallet(&x.who, d)
		out.Advice = w.advice(q.Credits)
	}
	x.op = nil // the quote is not a request of the operation
	return x.answer(out, nil)
}

// quotable are the methods a quote may be for, in the order they are tried: the quote itself is always a POST.
func quotable() []string {
	return []string{
		fasthttp.MethodPost, fasthttp.MethodPut, fasthttp.MethodPatch, fasthttp.MethodGet, fasthttp.MethodDelete,
	}
}
