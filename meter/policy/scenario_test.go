package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// theatre is a policy that scenarios are read against.
func theatre(t *testing.T) *Policy {
	t.Helper()
	p := parse(t, `  apply: {match: POST /studio/apply, units: len(body.photos), max: 50, credits: 1}
  show: {match: 'GET /studio/{id}', credits: 0}
`)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	p.Location, p.Plans = berlin, []*Plan{{Name: "plus"}, {Name: "basic"}}
	return p
}

// Every broken scenario is refused with the messages in its .want: place, what is wrong, and the fix.
func TestBrokenScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scenarios/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 7)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = ParseScenario(filepath.Base(file), src, theatre(t))
			var problems *FileError
			require.ErrorAs(t, err, &problems)
			want := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				require.NoError(t, os.WriteFile(want, []byte(err.Error()+"\n"), 0o600))
			}
			golden, readErr := os.ReadFile(want)
			require.NoError(t, readErr)
			require.Equal(t, string(golden), err.Error()+"\n")
		})
	}
}

func TestScenarioIsReadAsItIsMeant(t *testing.T) {
	t.Parallel()
	p := theatre(t)
	s, err := ParseScenario("story.yaml", []byte(`
- at: 2026-03-28T09:00                       # the day before clocks go forward
  subscribe: {account: agency, plan: plus, slots: 5, period: yearly}
- advance: 1d
  request: {account: agency, operation: apply, n: 2, times: 3, answer: 1 of 2, charged: 1, key: k}
- request: {account: agency, method: GET, path: /studio/7, body: {a: [1, b]}, answer: {status: 404, body: {e: 1}}, expect: 404}
- advance: 1mo2d12h
- purchase: {account: agency, pack: p, expect: 403 pack-not-eligible}
- expect: {account: agency, available: unlimited, buckets: {promo: 0.25, purchased: unlimited}, next_reset: none, plan: none}
`), p)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 3, 28, 9, 0, 0, 0, p.Location), s.Start)
	require.Len(t, s.Steps, 6)
	require.Equal(t, Subscribe{Account: "agency", Plan: "plus", Slots: 5, Yearly: true}, s.Steps[0].Act)

	at := s.Steps[1].Advance.After(s.Start)
	require.Equal(t, "2026-03-29T09:00:00+02:00", at.Format(time.RFC3339), "a day is a local day, of 23 hours here")
	ask := s.Steps[1].Act.(Ask)
	require.Equal(t, Answer{Kind: AnswersPart, Delivered: 1, Of: 2}, ask.Answer)
	require.JSONEq(t, `{"n":2,"photos":[{"id":"1"},{"id":"2"}],"background":"#ffffff"}`, string(ask.Body))
	require.Equal(t, []any{"POST", "/studio/apply", uint32(3), meter.Credits(1000), "k"},
		[]any{ask.Method, ask.Path, ask.Times, *ask.Charged, ask.Key})

	other := s.Steps[2].Act.(Ask)
	require.JSONEq(t, `{"a":[1,"b"]}`, string(other.Body))
	require.Equal(t, Outcome{Status: 404}, s.Steps[2].Want)
	require.Equal(t, 404, other.Answer.Status)
	require.JSONEq(t, `{"e":1}`, string(other.Answer.Body))

	require.Equal(t, "2026-05-01T21:00:00+02:00", s.Steps[3].Advance.After(at).Format(time.RFC3339))
	require.Nil(t, s.Steps[3].Act)
	require.Equal(t, Buy{Account: "agency", Pack: "p", Ref: "purchase-8", Quantity: 1, NetMinor: -1}, s.Steps[4].Act)
	require.Equal(t, Outcome{Status: 403, Code: "pack-not-eligible"}, s.Steps[4].Want)

	look := s.Steps[5].Act.(Look)
	require.True(t, look.Unlimited)
	require.Nil(t, look.Available)
	require.Equal(t, []BucketLook{{"promo", 250, false}, {"purchased", 0, true}}, look.Buckets)
	require.True(t, look.NextReset.IsZero())
	require.Empty(t, *look.Plan)
}

func FuzzScenario(f *testing.F) {
	files, err := filepath.Glob("testdata/scenarios/*.yaml")
	require.NoError(f, err)
	for _, file := range files {
		src, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(src)
	}
	p := &Policy{Location: time.UTC, Buckets: []string{"promo"}, Plans: []*Plan{{Name: "plus"}}}
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := ParseScenario("fuzz.yaml", src, p)
		if err != nil {
			return
		}
		at := s.Start
		for _, step := range s.Steps { // what is accepted can be played: time goes on, and each step does something
			if !step.At.IsZero() {
				require.False(t, step.At.Before(at))
				at = step.At
			}
			require.GreaterOrEqual(t, step.Advance.Duration, time.Duration(0))
			at = step.Advance.After(at)
			require.True(t, step.Act != nil || !step.At.IsZero() || step.Advance.String() != "")
		}
	})
}
