package gateway

import (
	"net/url"
	"strconv"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Bounds of one usage answer.
const (
	usageDaysMax     = 366
	usageDaysDefault = 30
	usageRowsMax     = 500
	// usagesMax bounds how many answers are summed up at a time; the others wait.
	usagesMax = 2
)

type usageView struct {
	Account  string         `json:"account"`
	By       string         `json:"by"`
	From     string         `json:"from"` // the first local day, and the last one
	To       string         `json:"to"`
	Timezone string         `json:"timezone"`
	Rows     []usageRowView `json:"rows"`
	More     bool           `json:"more"` // there are smaller rows that are not shown; total has them
	Total    usageRowView   `json:"total"`
}

// usageRowView names its day, operation or key; total names none. The name is empty where a request had no key, or a
// reservation no operation.
type usageRowView struct {
	Day       *string       `json:"day,omitempty"`
	Operation *string       `json:"operation,omitempty"`
	Key       *string       `json:"key,omitempty"`
	Credits   meter.Credits `json:"credits"`
	Units     int64         `json:"units"`
	Charges   int64         `json:"charges"`
}

// usageRange is a stretch of local days, both ends in it.
type usageRange struct {
	by       string
	from, to time.Time // days as midnight UTC
	loc      *time.Location
}

// usage sums what an account was charged: ?by=day|operation|key, ?from= and ?to= local days, both in it.
func (g *Gateway) usage(who *Identity, query string) (usageView, *problem) {
	r, p := readUsageRange(query, g.clock.Now(), g.zoneOf(who.Product))
	if p != nil {
		return usageView{}, p
	}
	_, bounds := r.spans()
	if len(bounds) == 0 {
		return r.view(who.Account, Usage{}), nil
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	var u Usage
	err := g.summing.do(ctx, func() (err error) {
		u, err = g.statements.Usage(ctx, UsageQuery{Account: who.Account, By: r.by, Bounds: bounds, Limit: usageRowsMax})
		return err
	})
	if err != nil {
		if p := g.readProblem(err); p.code != codeStorageUnavailable {
			return usageView{}, p
		}
		return usageView{}, &problem{
			code: codeStorageUnavailable, retryAfter: retryMeteringSeconds,
			detail: "usage cannot be read at the moment; ask again, or for fewer days",
		}
	}
	return r.view(who.Account, u), nil
}

func readUsageRange(query string, now time.Time, loc *time.Location) (r usageRange, p *problem) {
	q, p := readQuery(query, "by", "from", "to")
	if p != nil {
		return r, p
	}
	r.loc, r.by = loc, q.Get("by")
	switch r.by {
	case "":
		r.by = "day"
	case "day", "operation", "key":
	default:
		return r, &problem{code: codeInvalid, param: "by", detail: "by must be day, operation or key"}
	}
	local := now.In(loc)
	r.to = time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
	if p = readDay(q, "to", &r.to); p != nil {
		return r, p
	}
	r.from = r.to.AddDate(0, 0, 1-usageDaysDefault)
	if p = readDay(q, "from", &r.from); p != nil {
		return r, p
	}
	switch {
	case r.from.After(r.to):
		return r, &problem{code: codeInvalid, param: "from", detail: "from lies after to; both are days, and both are included"}
	case r.days() > usageDaysMax:
		return r, &problem{
			code: codeInvalid, param: "from",
			detail: "from and to span " + strconv.Itoa(r.days()) + " days; ask for at most " + strconv.Itoa(usageDaysMax),
		}
	}
	return r, nil
}

func readDay(q url.Values, name string, into *time.Time) *problem {
	text := q.Get(name)
	if text == "" {
		return nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil || day.Year() < 2000 || day.Year() > 2999 {
		return &problem{code: codeInvalid, param: name, detail: name + " must be a day such as 2026-03-31"}
	}
	*into = day
	return nil
}

func (r usageRange) days() int { return int(r.to.Sub(r.from)/(24*time.Hour)) + 1 }

func (r usageRange) day(n int) string { return r.from.AddDate(0, 0, n).Format(time.DateOnly) }

// spans are the days that a zone did not skip, by their number, and the moments at which they begin, with the one at
// which the last one ends. Both are empty when none is left.
func (r usageRange) spans() (days []int, bounds []time.Time) {
	begins := policy.DayStart(r.from, r.loc)
	for n := range r.days() {
		ends := policy.DayStart(r.from.AddDate(0, 0, n+1), r.loc)
		if ends.After(begins) {
			days, bounds = append(days, n), append(bounds, begins)
		}
		begins = ends
	}
	if len(days) > 0 {
		bounds = append(bounds, begins)
	}
	return days, bounds
}

func (r usageRange) view(account string, u Usage) usageView {
	v := usageView{
		Account: account, By: r.by, From: r.day(0), To: r.day(r.days() - 1), Timezone: r.loc.String(),
		Rows: make([]usageRowView, 0, len(u.Rows)), More: u.More, Total: usageSums(u.Total),
	}
	if r.by == "day" {
		return r.addDays(v, u.Rows)
	}
	for _, row := range u.Rows {
		shown := usageSums(row)
		if r.by == "operation" {
			shown.Operation = &row.Name
		} else {
			shown.Key = &row.Name
		}
		v.Rows = append(v.Rows, shown)
	}
	return v
}

// addDays lists every day, those without any usage included, in order.
func (r usageRange) addDays(v usageView, rows []UsageRow) usageView {
	for n := range r.days() {
		v.Rows = append(v.Rows, usageRowView{Day: new(r.day(n))})
	}
	days, _ := r.spans()
	for _, row := range rows {
		if row.Span >= 0 && row.Span < len(days) {
			sums := usageSums(row)
			sums.Day = v.Rows[days[row.Span]].Day
			v.Rows[days[row.Span]] = sums
		}
	}
	return v
}

func usageSums(r UsageRow) usageRowView {
	return usageRowView{Credits: r.Credits, Units: r.Units, Charges: r.Charges}
}
