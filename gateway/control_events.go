package gateway

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/gateway/webhook"
	"creditgate/meter"
)

// Bounds of reading events.
const (
	eventsDefault  = 100
	eventsMax      = 1000
	eventsWaitMax  = 30 * time.Second
	eventsWaitStep = 250 * time.Millisecond // between looks of a call that waits
	eventsWaiters  = 64                     // calls that may wait at once; one more is answered at once
)

type eventsView struct {
	Events    []webhook.Event `json:"events"`
	NextAfter int64           `json:"next_after"`
}

// getEvents reads the feed. With wait it answers once there is something, or when the time is over.
func (g *Gateway) getEvents(c *call) (int, any, *problem) {
	q, wait, p := g.eventQuery(c.query)
	if p != nil {
		return 0, nil, p
	}
	if wait > 0 {
		if g.waiting.Add(1) > eventsWaiters {
			wait = 0
		}
		defer g.waiting.Add(-1)
	}
	until := time.Now().Add(wait)
	for {
		page, err := g.readEvents(q)
		if err != nil {
			return 0, nil, g.readProblem(err)
		}
		if len(page.Events) > 0 || time.Until(until) <= 0 || g.draining.Load() {
			if page.Events == nil {
				page.Events = []webhook.Event{}
			}
			return fasthttp.StatusOK, eventsView{page.Events, page.Next}, nil
		}
		if page.Next == q.After { // else there is more to look through
			select {
			case <-g.base.Done():
			case <-time.After(min(eventsWaitStep, time.Until(until))):
			}
		}
		q.After = page.Next
	}
}

func (g *Gateway) readEvents(q EventQuery) (EventPage, error) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	return g.feed.Events(ctx, q)
}

// eventQuery reads after, limit, type (several separated by commas), account and wait.
func (g *Gateway) eventQuery(raw string) (q EventQuery, wait time.Duration, p *problem) {
	bad := func(param, detail string) (EventQuery, time.Duration, *problem) {
		return q, 0, &problem{code: codeInvalid, param: param, detail: detail}
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return bad("", "the query is not well-formed")
	}
	q.Limit = eventsDefault
	for name, v := range values {
		if len(v) > 1 {
			return bad(name, name+" is given more than once")
		}
		switch name {
		case "after":
			q.After, err = strconv.ParseInt(v[0], 10, 64)
			if err != nil || q.After < 0 {
				return bad(name, "after must be the id of an event, or 0")
			}
		case "limit":
			q.Limit, err = strconv.Atoi(v[0])
			if err != nil || q.Limit < 1 || q.Limit > eventsMax {
				return bad(name, "limit must lie between 1 and "+strconv.Itoa(eventsMax))
			}
		case "type":
			if q.Types, p = g.eventTypes(name, strings.Split(v[0], ",")); p != nil {
				return q, 0, p
			}
		case "account":
			if q.Account = v[0]; !meter.ValidName(q.Account) {
				return q, 0, badName(name, q.Account)
			}
		case "wait":
			seconds, err := strconv.Atoi(strings.TrimSuffix(v[0], "s"))
			if wait = time.Duration(seconds) * time.Second; err != nil || seconds < 0 || wait > eventsWaitMax {
				return bad(name, "wait must be whole seconds, at most "+eventsWaitMax.String())
			}
		default:
			return bad(name, name+" is not known here; there are after, limit, type, account, wait")
		}
	}
	return q, wait, nil
}

// eventTypes refuses a type that never comes, which would look like nothing ever happening.
func (g *Gateway) eventTypes(param string, given []string) ([]string, *problem) {
	known := g.feed.EventTypes()
	for _, t := range given {
		if !slices.Contains(known, t) {
			return nil, &problem{
				code: codeInvalid, param: param,
				detail: strconv.Quote(t) + " is no type of event; there are " + strings.Join(known, ", "),
			}
		}
	}
	slices.Sort(given)
	return slices.Compact(given), nil
}
