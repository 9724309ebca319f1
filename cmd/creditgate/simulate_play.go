package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist/finance"
)

// play plays a story, step by step, through the API.
type play struct {
	room   *room
	policy *policy.Policy
	story  *policy.Scenario
	table  *storyTable

	at          time.Time            // of the story
	accounts    []string             // in the order in which they came
	subscribed  map[string]time.Time // when a subscription was last begun, changed or ended, by account
	differing   int                  // steps
	differences []string
}

func (p *play) run(ctx context.Context) error {
	p.table.head()
	for i := range p.story.Steps {
		if err := p.step(ctx, &p.story.Steps[i]); err != nil {
			return fmt.Errorf("%s:%d: %w", p.story.File, p.story.Steps[i].Line, err)
		}
	}
	return nil
}

func (p *play) step(ctx context.Context, s *policy.Step) error {
	if !s.At.IsZero() {
		p.at = s.At
	}
	p.at = s.Advance.After(p.at)
	if err := p.room.setClock(ctx, p.at); err != nil {
		return err
	}
	if s.Act == nil {
		return nil
	}
	who := s.Who()
	if who != "" {
		if !slices.Contains(p.accounts, who) {
			p.accounts = append(p.accounts, who)
		}
		if _, err := p.room.key(ctx, who); err != nil {
			return err
		}
	}
	row := storyRow{at: p.at, account: who, what: describe(s.Act)}
	wrong, err := p.act(ctx, s, &row)
	if err != nil {
		return err
	}
	if who != "" {
		if row.standing, err = p.room.standing(ctx, who); err != nil {
			return err
		}
	}
	if look, ok := s.Act.(policy.Look); ok {
		wrong = compareStanding(look, row.standing, p.policy.Location)
		row.said = "as expected"
	}
	if len(wrong) > 0 {
		p.differing++
		row.said = "DIFFERS"
	}
	p.table.row(row)
	for _, w := range wrong {
		line := fmt.Sprintf("%s:%d: %s", p.story.File, s.Line, w)
		p.differences = append(p.differences, line)
		p.table.note(line)
	}
	return nil
}

// act does what a step says; wrong is what differs from what it expects.
func (p *play) act(ctx context.Context, s *policy.Step, row *storyRow) (wrong []string, err error) {
	var a said
	switch act := s.Act.(type) {
	case policy.MakeAccount, policy.Look:
		return nil, nil
	case policy.Ask:
		return p.request(ctx, act, s.Want, row)
	default:
		change := changeOf(row.account, p.onTime(act))
		a, err = p.room.control(ctx, change.method, change.path, change.body)
	}
	if err != nil {
		return nil, err
	}
	row.said = a.String()
	return compareOutcome(s.Want, a), nil
}

// onTime lets a subscription begin at the story's moment, from which its cycles are counted: the clock is seconds ahead
// of it. Not so where another change of it was made at this moment, which counted those seconds later.
func (p *play) onTime(act policy.Act) policy.Act {
	switch a := act.(type) {
	case policy.Subscribe:
		if a.StartsAt.IsZero() && p.at.After(p.subscribed[a.Account]) {
			a.StartsAt = p.at
		}
		act, p.subscribed[a.Account] = a, p.at
	case policy.Cancel:
		p.subscribed[a.Account] = p.at
	}
	return act
}

// request asks as often as the step says; all answers must be as expected.
func (p *play) request(ctx context.Context, ask policy.Ask, want policy.Outcome, row *storyRow) ([]string, error) {
	if want.Status == 0 {
		switch ask.Answer.Kind {
		case policy.AnswersFail:
			want.Status = http.StatusInternalServerError
		case policy.AnswersNone:
			want = policy.Outcome{Status: http.StatusGatewayTimeout, Code: "upstream-timeout"}
		case policy.AnswersSo:
			want.Status = ask.Answer.Status
		default:
		}
	}
	header := http.Header{}
	if ask.Key != "" {
		header.Set("Idempotency-Key", ask.Key)
	}
	p.room.backend.say(ask.Answer, p.units(ask))
	total := meter.Credits(0)
	for n := range ask.Times {
		a, err := p.room.ask(ctx, ask.Method, p.room.dataURL()+ask.Path, p.room.keys[ask.Account], ask.Body, header)
		if err != nil {
			return nil, err
		}
		row.said = a.String()
		wrong := compareOutcome(want, a)
		if text := a.header.Get("X-Credits-Charged"); text != "" {
			charged, err := meter.ParseCredits(text)
			if err != nil {
				return nil, fmt.Errorf("X-Credits-Charged: %w", err)
			}
			total += charged
			row.charged = total.String()
		}
		if ask.Charged != nil && a.header.Get("X-Credits-Charged") != ask.Charged.String() {
			wrong = append(wrong, fmt.Sprintf("X-Credits-Charged is %q, must be %s", a.header.Get("X-Credits-Charged"), *ask.Charged))
		}
		if len(wrong) > 0 {
			if ask.Times > 1 {
				wrong = append(wrong, fmt.Sprintf("in request %d of %d", n+1, ask.Times))
			}
			return wrong, nil
		}
	}
	return nil, nil
}

// units is how many items the request asks for, by the policy: so many the backend delivers.
func (p *play) units(ask policy.Ask) uint32 {
	path, query, _ := strings.Cut(ask.Path, "?")
	op, params, ok := p.policy.Match(ask.Method, path)
	if !ok {
		return 0
	}
	view, err := op.Read(policy.Request{Params: params, Query: []byte(query), Body: ask.Body, Header: jsonHeader()})
	if err != nil {
		return 0 // the gateway refuses it, too
	}
	defer view.Release()
	quote, err := op.Quote(view)
	if err != nil {
		return 0
	}
	return quote.Units
}

func jsonHeader() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) { yield([]byte("Content-Type"), []byte("application/json")) }
}

// compareOutcome is what differs between an answer and what was expected of it.
func compareOutcome(want policy.Outcome, have said) []string {
	switch {
	case want.Status == 0 && have.status < http.StatusMultipleChoices:
		return nil
	case want.Status == 0:
		return []string{fmt.Sprintf("answered %s, must succeed: %s", have, have.detail())}
	case want.Status != have.status || want.Code != "" && want.Code != have.problem():
		return []string{strings.TrimSpace(fmt.Sprintf("answered %s, must be %d %s", have, want.Status, want.Code))}
	}
	return nil
}

// entries prints the ledger of every account of the story, once everything is in Postgres.
func (p *play) entries(ctx context.Context) error {
	for _, account := range p.accounts {
		entries, err := finance.Entries(ctx, p.room.postgres.ownerURL(), account)
		if err != nil {
			return err
		}
		p.table.entries(account, entries)
	}
	return nil
}
