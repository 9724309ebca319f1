package gateway

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/valyala/fasthttp"
)

// answerFormat is the first byte of a stored answer: status, header lines, body, each with its length in front.
const answerFormat = 1

var errAnswer = errors.New("stored answer is damaged")

// keepAnswer stores the answer to a keyed request, before the commit that it belongs to. If it cannot be stored the
// request goes on: a repeat then gets replay-unavailable, and is still charged once.
func (g *Gateway) keepAnswer(x *exchange, resp *fasthttp.Response) {
	if x.key == nil {
		return
	}
	body := x.ctx.Response.Body()
	if len(body) > g.set.ReplayMax {
		g.metrics.answers.WithLabelValues("full").Inc()
		return
	}
	x.settleBy = time.Now().Add(g.set.SettleBudget)
	ctx, cancel := g.within(g.set.SettleBudget / 2) // the commit gets what is left, at least as much
	defer cancel()
	stored, err := g.answers.Put(ctx, x.reserve.ID, appendAnswer(nil, resp, body))
	result := "stored"
	switch {
	case err != nil:
		result = "failed"
		g.failing(x, err).Msg("cannot store an answer")
	case !stored:
		result = "full"
	}
	g.metrics.answers.WithLabelValues(result).Inc()
}

// replay answers a repeated request with what the first one got. Its charge is the first one's.
func (g *Gateway) replay(x *exchange) *problem {
	first := x.answered
	ctx, cancel := g.within(g.set.SettleBudget)
	defer cancel()
	b, ok, err := g.answers.Get(ctx, first.ID)
	if err == nil && ok {
		err = g.setAnswer(&x.ctx.Response, b)
	}
	if err != nil || !ok {
		if err != nil {
			g.failing(x, err).Stringer("reservation", first.ID).Msg("cannot read a stored answer")
		}
		g.metrics.answers.WithLabelValues("missing").Inc()
		x.ctx.Response.Header.Reset()
		return &problem{
			code: codeReplayUnavailable, outcome: first,
			detail: "the request with this Idempotency-Key was answered and charged, but its answer is not stored; " +
				"use a new key to have the work done, and charged, again",
		}
	}
	g.metrics.answers.WithLabelValues("replayed").Inc()
	x.outcome = outcomeReplayed
	x.reservedAs(first.ID)
	x.reserve.Amount = first.Amount
	x.creditHeaders(settled{charged: first.Charged, remaining: first.Available, known: true, unlimited: first.Unlimited})
	x.ctx.Response.Header.Set("Idempotent-Replayed", "true")
	return nil
}

func appendAnswer(b []byte, resp *fasthttp.Response, body []byte) []byte {
	b = append(b, answerFormat)
	b = binary.LittleEndian.AppendUint16(b, uint16(resp.StatusCode()))
	connection := connectionLists(resp.Header.All())
	for k, v := range resp.Header.All() {
		name := string(k)
		if hopByHop(name) || ownResponseHeader(name) || name == "Date" || listed(connection, k) {
			continue
		}
		b = appendField(appendField(b, k), v)
	}
	b = appendField(b, nil) // an empty name ends the head
	return append(b, body...)
}

func appendField(b, v []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

func (g *Gateway) setAnswer(to *fasthttp.Response, b []byte) error {
	if len(b) < 3 || b[0] != answerFormat {
		return errAnswer
	}
	to.SetStatusCode(int(binary.LittleEndian.Uint16(b[1:])))
	b = b[3:]
	for {
		name, rest, ok := cutField(b)
		if !ok {
			return errAnswer
		}
		if len(name) == 0 {
			to.SetBodyRaw(rest)
			return nil
		}
		var value []byte
		if value, b, ok = cutField(rest); !ok {
			return errAnswer
		}
		if field := string(name); !ownResponseHeader(field) {
			to.Header.AddBytesKV(name, g.upstreams.relocated(field, value))
		}
	}
}

func cutField(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > len(b)-4 {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
