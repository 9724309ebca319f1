package gateway

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// Bounds of a move of the test clock.
const (
	advanceDaysMax = 100 * 366
	moveTimeout    = 2 * time.Minute // for everything that became due meanwhile
)

type clockBody struct {
	Now     *time.Time `json:"now"`
	Advance *string    `json:"advance"`
}

type clockView struct {
	Now      string `json:"now"`
	OffsetMs int64  `json:"offset_ms"`
}

func noTestClock() *problem {
	return &problem{
		code:   codeNotFound,
		detail: "time cannot be moved here: it can be in a test database, with CREDITGATE_TEST_CLOCK=true",
	}
}

func (g *Gateway) getClock(*call) (int, any, *problem) {
	if g.testClock == nil {
		return 0, nil, noTestClock()
	}
	return fasthttp.StatusOK, g.clockView(), nil
}

func (g *Gateway) clockView() clockView {
	now, offset := g.clock.Read()
	return clockView{Now: timeText(now), OffsetMs: offset.Milliseconds()}
}

// putClock moves the test clock, to a time or by a stretch of time, and answers when what became due is done.
func (g *Gateway) putClock(c *call) (int, any, *problem) {
	if g.testClock == nil {
		return 0, nil, noTestClock()
	}
	var b clockBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	if (b.Now == nil) == (b.Advance == nil) {
		return 0, nil, &problem{code: codeInvalid, detail: `send either {"now": "2027-01-01T00:00:00Z"} or {"advance": "36h"}`}
	}
	ctx, cancel := g.within(moveTimeout)
	defer cancel()
	var err error
	if b.Now != nil {
		err = g.testClock.MoveTo(ctx, *b.Now)
	} else {
		by, bad := parseAdvance(*b.Advance)
		if bad != nil {
			return 0, nil, bad
		}
		err = g.testClock.Advance(ctx, by)
	}
	switch {
	case errors.Is(err, ErrRefused):
		return 0, nil, &problem{code: codeChangeRefused, detail: "time only goes on, and at most 200 years: " +
			"it is " + g.clockView().Now + " already"}
	case err != nil:
		g.log.Error().Err(err).Msg("cannot move the test clock")
		return 0, nil, &problem{
			code: codeStorageUnavailable, retryAfter: retryMeteringSeconds,
			detail: "it is " + g.clockView().Now + ", and what is due by then is not all done; to have it done, send " +
				`{"advance": "0s"}`,
		}
	}
	return fasthttp.StatusOK, g.clockView(), nil
}

// parseAdvance reads 36h, 1d, or both as 1d12h. A day is 24 hours.
func parseAdvance(s string) (time.Duration, *problem) {
	bad := &problem{
		code: codeInvalid, param: "advance",
		detail: fmt.Sprintf("advance must be a stretch of time such as 36h, 1d or 1d12h, at most %dd; not %q", advanceDaysMax, s),
	}
	parts := regexp.MustCompile(`^(?:(\d{1,5})d)?([0-9a-zµ.]*)$`).FindStringSubmatch(s)
	if s == "" || parts == nil {
		return 0, bad
	}
	days, _ := strconv.Atoi("0" + parts[1]) // at most five digits
	by := time.Duration(0)
	if parts[2] != "" {
		var err error
		if by, err = time.ParseDuration(parts[2]); err != nil || by < 0 || by > advanceDaysMax*24*time.Hour {
			return 0, bad
		}
	}
	if days > advanceDaysMax {
		return 0, bad
	}
	return time.Duration(days)*24*time.Hour + by, nil
}

// clockText is how far a test clock is ahead, such as +365d or +36h0m0s; empty without one.
func (g *Gateway) clockText() string {
	if g.testClock == nil {
		return ""
	}
	const day = 24 * time.Hour
	offset := g.clock.Offset().Truncate(time.Second)
	if offset != 0 && offset%day == 0 {
		return "+" + strconv.Itoa(int(offset/day)) + "d"
	}
	return "+" + offset.String()
}
