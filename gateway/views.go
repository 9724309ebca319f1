package gateway

import (
	"time"

	"creditgate/meter"
)

// The JSON shapes of the HTTP contract. Credits are numbers with at most three decimals, times RFC 3339 in UTC.

type drawView struct {
	Bucket  string        `json:"bucket"`
	GrantID meter.ID      `json:"grant_id"`
	Credits meter.Credits `json:"credits"`
}

type quoteView struct {
	Operation  string        `json:"operation"`
	Units      uint32        `json:"units"`
	Credits    meter.Credits `json:"credits"`
	Affordable bool          `json:"affordable"`
	Draws      []drawView    `json:"draws"`
	Advice     *adviceView   `json:"advice"` // null: affordable, or nothing known would help
}

type reservationView struct {
	ID             string        `json:"id"`
	Account        string        `json:"account"`
	State          string        `json:"state"`
	Credits        meter.Credits `json:"credits"`
	Draws          []drawView    `json:"draws"`
	LeaseExpiresAt *string       `json:"lease_expires_at"`
	Charged        meter.Credits `json:"charged"`
	Returned       meter.Credits `json:"returned"`
}

type historyView struct {
	Entries    []entryView `json:"entries"`
	NextCursor *string     `json:"next_cursor"`
}

type entryView struct {
	EntryID       string     `json:"entry_id"`
	Seq           uint64     `json:"seq"`
	Kind          string     `json:"kind"`
	Operation     string     `json:"operation"`
	Units         uint32     `json:"units"`
	ReservationID *string    `json:"reservation_id"`
	RequestID     *string    `json:"request_id"`
	OccurredAt    string     `json:"occurred_at"`
	Lines         []drawView `json:"lines"`
}

func msText(ms int64) string { return timeText(time.UnixMilli(ms)) }

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// optional is nil for an empty string: null in JSON.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// newReservationView shows a reservation; buckets names those of its grants.
func newReservationView(r meter.Reservation, buckets map[meter.ID]string) reservationView {
	v := reservationView{
		ID: r.ID.String(), Account: r.Account, State: r.State.String(), Credits: r.Amount,
		Draws: drawViews(r.Draws, buckets), Charged: r.Charged, Returned: r.Returned(),
	}
	if r.State == meter.Held {
		v.LeaseExpiresAt = optional(msText(r.DeadlineMs))
	}
	return v
}

func drawViews(draws []meter.Draw, buckets map[meter.ID]string) []drawView {
	out := make([]drawView, 0, len(draws))
	for _, d := range draws {
		out = append(out, drawView{Bucket: buckets[d.Grant], GrantID: d.Grant, Credits: d.Amount})
	}
	return out
}

// bucketsOf names the buckets of an account's live grants.
func bucketsOf(a meter.Account) map[meter.ID]string {
	out := make(map[meter.ID]string, len(a.Grants))
	for _, g := range a.Grants {
		out[g.ID] = g.Bucket
	}
	return out
}

// newHistoryView shows one page; more says that older entries exist.
func newHistoryView(entries []LedgerEntry, more bool) historyView {
	v := historyView{Entries: make([]entryView, 0, len(entries))}
	for _, e := range entries {
		ev := entryView{
			EntryID: e.EntryID, Seq: e.Seq, Kind: e.Kind, Operation: e.Operation, Units: e.Units,
			ReservationID: optional(e.Reservation), RequestID: optional(e.RequestID),
			OccurredAt: timeText(e.OccurredAt), Lines: make([]drawView, 0, len(e.Lines)),
		}
		for _, l := range e.Lines {
			ev.Lines = append(ev.Lines, drawView{Bucket: l.Bucket, GrantID: l.Grant, Credits: l.Credits})
		}
		v.Entries = append(v.Entries, ev)
	}
	if more {
		v.NextCursor = optional(cursorText(entries[len(entries)-1].Seq))
	}
	return v
}
