package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

const (
	apply    = "/studio/apply"
	revert   = "/studio/revert"
	generate = "/v1/images/generations"
)

// story is a studio's day. Each act is one thing that must hold; an error is something that kept it from being tried.
type story struct {
	*report

	plus, empty client
}

func tell(ctx context.Context, r *report, g *gateway) error {
	s := story{
		report: r,
		plus:   client{g.dev.DataURL, g.dev.Keys["demo-plus"]},
		empty:  client{g.dev.DataURL, g.dev.Keys["demo-empty"]},
	}
	r.title("A studio works")
	for _, act := range []func(context.Context) error{
		s.start, s.threePhotos, s.twoOfThree, s.drainOrder, s.failures, s.sameKeyTwice,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	r.title("At zero")
	for _, act := range []func(context.Context) error{s.refused, s.tooLarge, s.freeAtZero} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return books(ctx, s, g)
}

func (s story) start(ctx context.Context) error {
	b, err := s.plus.balance(ctx)
	s.step("demo-plus begins", b.String(), is("balance", "promo 5, monthly 10, purchased 50", b))
	return err
}

func (s story) threePhotos(ctx context.Context) error {
	a, err := s.plus.post(ctx, apply, photos(3))
	if err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	s.step("3 photos = 3 credits, promo first", a.credits(),
		is("status", 200, a.status), is("photos delivered", 3, a.delivered()),
		is("X-Credits-Reserved", 3, a.header.Get("X-Credits-Reserved")),
		is("X-Credits-Charged", 3, a.charged), is("X-Credits-Remaining", 62, a.header.Get("X-Credits-Remaining")),
		is("balance", "promo 2, monthly 10, purchased 50", b))
	return err
}

// twoOfThree reserves the last 2 of promo and 1 of monthly. What is returned goes back where it came from: to monthly.
func (s story) twoOfThree(ctx context.Context) error {
	a, err := s.plus.post(ctx, apply, photos(3), "X-Studio-Fail-Items", "1")
	if err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	s.step("2 of 3 photos delivered = 2 charged, 1 back to monthly", a.credits(),
		is("status", 200, a.status), is("photos delivered", 2, a.delivered()),
		is("X-Credits-Reserved", 3, a.header.Get("X-Credits-Reserved")),
		is("X-Credits-Charged", 2, a.charged), is("balance", "promo 0, monthly 10, purchased 50", b))
	return err
}

func (s story) drainOrder(ctx context.Context) error {
	a, err := s.plus.post(ctx, generate, pictures(9))
	if err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	s.step("9 pictures: promo is empty, monthly pays", a.credits(),
		is("status", 200, a.status), is("X-Credits-Charged", 9, a.charged), is("balance", "promo 0, monthly 1, purchased 50", b))
	if err != nil {
		return err
	}
	if a, err = s.plus.post(ctx, generate, pictures(2)); err != nil {
		return err
	}
	b, err = s.plus.balance(ctx)
	s.step("2 pictures: the last of monthly, then purchased", a.credits(),
		is("status", 200, a.status), is("X-Credits-Charged", 2, a.charged), is("balance", "promo 0, monthly 0, purchased 49", b))
	return err
}

func (s story) failures(ctx context.Context) error {
	a, err := s.plus.post(ctx, generate, pictures(1), "X-Studio-Fail-Rate", "1")
	if err != nil {
		return err
	}
	s.step("the backend fails: its 500 passes, nothing charged", a.credits(),
		is("status", 500, a.status), is("X-Credits-Charged", 0, a.charged),
		is("the backend's own words", true, bytes.Contains(a.body, []byte("steered_failure"))))
	if a, err = s.plus.post(ctx, generate, pictures(1), "X-Studio-Reset", "body"); err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	s.step("the backend breaks off: 502, nothing charged", a.credits(),
		is("status", 502, a.status), is("X-Credits-Charged", 0, a.charged), is("balance", "promo 0, monthly 0, purchased 49", b))
	return err
}

func (s story) sameKeyTwice(ctx context.Context) error {
	first, err := s.plus.post(ctx, generate, pictures(1), "Idempotency-Key", "demo-1")
	if err != nil {
		return err
	}
	again, err := s.plus.post(ctx, generate, pictures(1), "Idempotency-Key", "demo-1")
	if err != nil {
		return err
	}
	b, err := s.plus.balance(ctx)
	s.step("the same Idempotency-Key twice: charged once, replayed",
		again.credits()+", replayed "+again.header.Get("Idempotent-Replayed"),
		is("first status", 200, first.status), is("second status", 200, again.status),
		is("first Idempotent-Replayed", "", first.header.Get("Idempotent-Replayed")),
		is("second Idempotent-Replayed", "true", again.header.Get("Idempotent-Replayed")),
		is("X-Credits-Reservation", first.header.Get("X-Credits-Reservation"), again.header.Get("X-Credits-Reservation")),
		is("the same bytes", true, bytes.Equal(first.body, again.body)),
		is("balance", "promo 0, monthly 0, purchased 48", b))
	return err
}

// refusal is what a 402 says.
type refusal struct {
	Type            string           `json:"type"`
	Status          int              `json:"status"`
	Code            string           `json:"code"`
	RequestID       string           `json:"request_id"`
	Required        money            `json:"required"`
	Available       money            `json:"available"`
	Held            money            `json:"held"`
	AffordableUnits int              `json:"affordable_units"`
	Buckets         []bucket         `json:"buckets"`
	NextResetAt     *json.RawMessage `json:"next_reset_at"`
	Error           struct {
		Code string `json:"code"`
	} `json:"error"`
}

func (s story) refused(ctx context.Context) error {
	a, err := s.empty.post(ctx, generate, pictures(1))
	if err != nil {
		return err
	}
	var p refusal
	err = json.Unmarshal(a.body, &p)
	s.step("demo-empty asks for a picture: 402", "required "+p.Required.String()+", available "+p.Available.String(),
		is("status", 402, a.status), is("Content-Type", "application/problem+json", a.header.Get("Content-Type")),
		is("type", "/problems/insufficient-credits", p.Type), is("status in the body", 402, p.Status),
		is("code", "insufficient-credits", p.Code), is("error.code", "insufficient-credits", p.Error.Code),
		is("request_id", a.header.Get("X-Request-ID"), p.RequestID), is("required", 1, p.Required), is("available", 0, p.Available),
		is("held", 0, p.Held), is("affordable_units", 0, p.AffordableUnits), is("buckets", 3, len(p.Buckets)),
		is("has next_reset_at", true, bytes.Contains(a.body, []byte(`"next_reset_at"`))),
		is("x-should-retry", "false", a.header.Get("X-Should-Retry")), is("Retry-After", "", a.header.Get("Retry-After")))
	return err
}

// tooLarge asks for more than there is: nothing is done in part, but the answer says what would go.
func (s story) tooLarge(ctx context.Context) error {
	job := photos(1)
	for len(job.Photos) < 50 {
		job.Photos = append(job.Photos, job.Photos[0])
	}
	a, err := s.plus.post(ctx, apply, job)
	if err != nil {
		return err
	}
	var p refusal
	err = json.Unmarshal(a.body, &p)
	s.step("demo-plus asks for 50 photos with 48 left: 402", "affordable "+strings.TrimSpace(p.Available.String()),
		is("status", 402, a.status), is("required", 50, p.Required), is("available", 48, p.Available),
		is("affordable_units", 48, p.AffordableUnits))
	return err
}

func (s story) freeAtZero(ctx context.Context) error {
	a, err := s.empty.post(ctx, revert, map[string]any{"photos": []map[string]string{{"id": "photo-1"}}})
	if err != nil {
		return err
	}
	s.step("a free operation passes at zero", http.StatusText(a.status),
		is("status", 200, a.status), is("X-Credits-Charged", "", a.charged))
	return nil
}
