package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/meter/redisd"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// Sixty-four clients spend while the month ends. Not one of them is refused; nothing of the old month's credit is spent
// once the new month has begun; and what was spent of it, with what lapsed, is what it was.
func TestResetUnderLoad(t *testing.T) {
	t.Parallel()
	const clients, slots, unit = 64, 20_000, 5 // professional: slots × 5 a month, more than can be spent here
	w := newLoadedStudio(t)
	reset := w.zoned(t, "2026-04-01 00:00")
	require.NoError(t, persist.BeginTestClock(t.Context(), w.database, reset.Add(-time.Hour)))
	g := w.serve(t, "CREDITGATE_TEST_CLOCK=true")
	g.must(t, "PUT", "/v1/accounts/agency", `{}`)
	g.must(t, "PUT", "/v1/accounts/agency/subscription", fmt.Sprintf(`{"plan":"professional","slots":%d}`, slots))
	key := g.key(t, "agency")
	before := g.bucketOf(t, "agency", "monthly")
	require.Equal(t, meter.Credits(slots*unit)*meter.Credit, before)
	const ahead = 1500 * time.Millisecond
	g.must(t, "PUT", "/v1/clock", fmt.Sprintf(`{"now":%q}`, reset.Add(-ahead).Format(time.RFC3339Nano)))
	here := time.Now().Add(ahead) // by this host's clock, after which the new month has certainly begun

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var refused, delivered, failed, inNewMonth atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				r, err := apply(context.WithoutCancel(ctx), g.data, key)
				switch {
				case err != nil:
					t.Error(err)
					return
				case r.status == http.StatusOK:
					if delivered.Add(1); time.Now().After(here) && inNewMonth.Add(1) > 10*clients {
						stop()
					}
				case r.status == http.StatusInternalServerError: // the backend's, at times
					failed.Add(1)
				default:
					refused.Add(1)
					t.Errorf("%d: %s", r.status, r.body)
					return
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, refused.Load())
	g.must(t, "PUT", "/v1/clock", `{"advance":"1s"}`) // what is due lapses now, and not when a worker comes to it
	g.interrupt(t, os.Interrupt)                      // everything is flushed
	g = w.serve(t, "CREDITGATE_TEST_CLOCK=true")

	months := g.monthsOf(t, "agency", reset)
	t.Logf("%d delivered, %d failed, %d in the new month: %+v", delivered.Load(), failed.Load(), inNewMonth.Load(), months)
	require.Equal(t, before, months.oldSpent+months.oldLapsed, "the old month's credit")
	require.Equal(t, meter.Credits(delivered.Load())*meter.Credit, months.oldSpent+months.newSpent, "each delivered picture, once")
	require.Zero(t, months.oldAfter, "requests that began in the new month and spent the old one's credit")
	require.Zero(t, months.newBefore, "entries of before the new month that spent its credit")
	require.Positive(t, months.oldSpent)
	require.Positive(t, months.newSpent)
	require.Equal(t, before-months.newSpent, g.bucketOf(t, "agency", "monthly"))
	w.verified(t)
}

// loadedStudio is a world with the background studio's policy; every eighth request fails.
type loadedStudio struct{ *world }

func newLoadedStudio(t *testing.T) loadedStudio {
	t.Helper()
	w := &world{redis: redisd.Test(t), database: persisttest.DB(t), journal: filepath.Join(t.TempDir(), "journal")}
	w.policy = filepath.Join(t.TempDir(), "studio.yaml")
	src, err := policy.Example("ai-background-studio")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(w.policy, src, 0o600))
	var asked atomic.Int64
	w.backend = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "application/json")
		if asked.Add(1)%8 == 0 {
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(rw, `{"results":[{"status":"ok"}]}`)
	}))
	t.Cleanup(w.backend.Close)
	return loadedStudio{w}
}

// zoned is a time in the studio's zone.
func (w loadedStudio) zoned(t *testing.T, text string) time.Time {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	at, err := time.ParseInLocation("2006-01-02 15:04", text, berlin)
	require.NoError(t, err)
	return at
}

// apply presses the studio's button for one photo, which costs one credit.
func apply(ctx context.Context, url, key string) (reply, error) {
	return send(ctx, http.DefaultClient, url+"/studio/apply", key, `{"photos":[{"id":"1"}],"background":"#ffffff"}`)
}

func (g *gateway) key(t *testing.T, account string) string {
	t.Helper()
	var made struct {
		Key string `json:"key"`
	}
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "POST", "/v1/accounts/"+account+"/keys", `{}`)), &made))
	return made.Key
}

func (g *gateway) bucketOf(t *testing.T, account, bucket string) meter.Credits {
	t.Helper()
	var b struct {
		Buckets []struct {
			Name      string        `json:"name"`
			Available meter.Credits `json:"available"`
		} `json:"buckets"`
	}
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "GET", "/v1/accounts/"+account+"/balance", "")), &b))
	for _, x := range b.Buckets {
		if x.Name == bucket {
			return x.Available
		}
	}
	require.FailNow(t, "no bucket "+bucket)
	return 0
}

// months is what became of the credit of the month before a reset, and of the one after it.
type months struct {
	oldSpent, oldLapsed, newSpent meter.Credits
	oldAfter                      int // spendings of old credit by requests that began after the reset
	newBefore                     int // spendings of new credit that were booked before it
}

// ledgerPage is a page of an account's entries.
type ledgerPage struct {
	Entries []struct {
		Kind          string    `json:"kind"`
		ReservationID string    `json:"reservation_id"`
		OccurredAt    time.Time `json:"occurred_at"`
		Lines         []struct {
			Grant   string        `json:"grant_id"`
			Credits meter.Credits `json:"credits"`
		} `json:"lines"`
	} `json:"entries"`
	NextCursor string `json:"next_cursor"`
}

// monthsOf reads the whole ledger of an account. The grants of a month are those that were made, or lapse, with it: the
// first lapse names the old one.
func (g *gateway) monthsOf(t *testing.T, account string, reset time.Time) (m months) {
	t.Helper()
	var pages []ledgerPage
	old := ""
	for cursor := ""; ; {
		var page ledgerPage
		answer := g.must(t, "GET", "/v1/accounts/"+account+"/entries?limit=100"+cursor, "")
		require.NoError(t, json.Unmarshal([]byte(answer), &page))
		pages = append(pages, page)
		for _, e := range page.Entries {
			if e.Kind == "lapse" {
				old = e.Lines[0].Grant
			}
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	require.NotEmpty(t, old, "nothing lapsed")
	for _, page := range pages {
		for _, e := range page.Entries {
			for _, l := range e.Lines {
				m.add(t, e.Kind, e.ReservationID, l.Grant == old, -l.Credits, e.OccurredAt, reset)
			}
		}
	}
	return m
}

func (m *months) add(t *testing.T, kind, reservation string, old bool, spent meter.Credits, at, reset time.Time) {
	t.Helper()
	switch {
	case kind == "grant":
	case old && (kind == "lapse" || kind == "release"): // a release into it lapses
		m.oldLapsed += spent
	case old && kind == "commit":
		m.oldSpent += spent
		id, err := meter.ParseReservationID(reservation)
		require.NoError(t, err)
		if !time.UnixMilli(id.ID.CreatedMs()).Before(reset) {
			m.oldAfter++
		}
	case !old && spent != 0:
		m.newSpent += spent
		if at.Before(reset) {
			m.newBefore++
		}
	}
	require.True(t, spent >= 0 || kind == "grant" || strings.HasPrefix(kind, "release"), kind)
}
