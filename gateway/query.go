package gateway

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// readQuery reads the query of one of the gateway's own routes. A parameter that nothing reads is an error with the
// names that are known: a filter that is ignored shows too much.
func readQuery(raw string, known ...string) (url.Values, *problem) {
	if raw == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, &problem{code: codeInvalid, detail: "the query is not well-formed"}
	}
	for name, values := range q {
		switch {
		case len(known) == 0:
			return nil, &problem{
				code: codeInvalid, param: name,
				detail: strconv.Quote(name) + " is not known here; this route takes no query parameters",
			}
		case !slices.Contains(known, name):
			return nil, &problem{
				code: codeInvalid, param: name,
				detail: strconv.Quote(name) + " is not known here; this route takes " + strings.Join(known, ", "),
			}
		case len(values) > 1:
			return nil, &problem{code: codeInvalid, param: name, detail: name + " is there twice: send it once"}
		}
	}
	return q, nil
}

// queryOf names what the routes of the control plane take in their query.
func (r *controlRoute) queryOf() []string {
	switch r.method + " " + r.pattern {
	case "GET /v1/accounts/{account}/entries":
		return []string{"limit", "cursor", "from", "kind"}
	case "DELETE /v1/accounts/{account}/subscription":
		return []string{"at"}
	case "GET /v1/events":
		return []string{"after", "limit", "type", "account", "wait"}
	}
	return nil
}

// HistoryQuery asks for a page of an account's history, newest first.
type HistoryQuery struct {
	Account string
	Before  uint64    // strictly older than this seq; 0 starts at the newest
	Limit   int       // at most so many
	From    time.Time // not older than this; zero for no bound
	Kind    string    // of this kind only; empty for each
}

// readHistoryQuery reads ?limit=, ?cursor=, ?from= and ?kind=. A day in from begins at midnight of zone.
func readHistoryQuery(account, raw string, zone func() (*time.Location, *problem)) (h HistoryQuery, p *problem) {
	h = HistoryQuery{Account: account, Limit: historyDefault}
	q, p := readQuery(raw, "limit", "cursor", "from", "kind")
	if p != nil {
		return h, p
	}
	bad := func(param, detail string) (HistoryQuery, *problem) {
		return h, &problem{code: codeInvalid, param: param, detail: detail}
	}
	var err error
	if s := q.Get("limit"); s != "" {
		if h.Limit, err = strconv.Atoi(s); err != nil || h.Limit < 1 || h.Limit > historyMax {
			return bad("limit", "limit must be a number from 1 to "+strconv.Itoa(historyMax))
		}
	}
	if s := q.Get("cursor"); s != "" {
		if h.Before, err = strconv.ParseUint(s, 10, 63); err != nil || h.Before == 0 {
			return bad("cursor", "cursor must be the next_cursor of an earlier page")
		}
	}
	if q.Has("kind") {
		if h.Kind = q.Get("kind"); !slices.Contains(ledgerKinds(), h.Kind) {
			return bad("kind", "kind must be one of "+strings.Join(ledgerKinds(), ", "))
		}
	}
	if q.Has("from") {
		h.From, p = readSince("from", q.Get("from"), zone)
	}
	return h, p
}

// readSince reads a time, or a day for its beginning.
func readSince(param, s string, zone func() (*time.Location, *problem)) (time.Time, *problem) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	day, err := time.Parse(time.DateOnly, s)
	if err != nil || day.Year() < 1 {
		return day, &problem{
			code: codeInvalid, param: param,
			detail: param + " must be a day such as 2026-03-31, or a time such as 2026-03-31T12:00:00Z",
		}
	}
	loc, p := zone()
	if p != nil {
		return day, p
	}
	return policy.DayStart(day, loc), nil
}

// zoneOf is the timezone of a product's policy.
func (g *Gateway) zoneOf(product string) *time.Location {
	if p := g.policies.Policy(product); p != nil {
		return p.Location
	}
	return time.UTC
}

func ledgerKinds() (names []string) {
	for k := meter.KindGrant; k <= meter.KindHold; k++ {
		names = append(names, k.String())
	}
	return names
}
