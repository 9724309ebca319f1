package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"creditgate/bench/studio"
	"creditgate/meter"
)

// Bounds of one request.
const (
	requestMax = 60 * time.Second
	answerMax  = 64 << 20
)

// client is a customer of the gateway.
type client struct {
	url, key string
}

// answer is what of a response counts.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	charged string
}

// post sends a JSON body; headers are name, value, name, value.
func (c client) post(ctx context.Context, path string, body any, headers ...string) (answer, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	return c.do(ctx, http.MethodPost, path, b, headers...)
}

func (c client) do(ctx context.Context, method, path string, body []byte, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: b, charged: resp.Header.Get("X-Credits-Charged")}, nil
}

// credits is the numbers of a priced answer, for the step's line.
func (a answer) credits() string {
	return fmt.Sprintf("reserved %s, charged %s, remaining %s",
		a.header.Get("X-Credits-Reserved"), a.charged, a.header.Get("X-Credits-Remaining"))
}

// money is an amount in an answer: a JSON number with at most three decimals.
type money struct{ meter.Credits }

func (m *money) UnmarshalJSON(b []byte) (err error) {
	m.Credits, err = meter.ParseCredits(string(b))
	return err
}

// balance is what the gateway says that an account has.
type balance struct {
	Available money    `json:"available"`
	Held      money    `json:"held"`
	Buckets   []bucket `json:"buckets"`
}

type bucket struct {
	Name      string `json:"name"`
	Available money  `json:"available"`
	Held      money  `json:"held"`
}

func (c client) balance(ctx context.Context) (b balance, err error) {
	a, err := c.do(ctx, http.MethodGet, "/credits/balance", nil)
	if err != nil {
		return b, err
	}
	if a.status != http.StatusOK {
		return b, fmt.Errorf("balance: status %d: %s", a.status, a.body)
	}
	return b, json.Unmarshal(a.body, &b)
}

// String is "promo 5, monthly 10, purchased 50".
func (b balance) String() string {
	parts := make([]string, len(b.Buckets))
	for i, x := range b.Buckets {
		parts[i] = x.Name + " " + x.Available.String()
	}
	return strings.Join(parts, ", ")
}

type photo struct {
	ID    string `json:"id"`
	Image string `json:"image"`
}

type applyJob struct {
	Photos     []photo `json:"photos"`
	Background string  `json:"background"`
}

// photos is a job with n real photos.
func photos(n int) applyJob {
	job := applyJob{Background: "#dde7f0"}
	for i := range n {
		job.Photos = append(job.Photos, photo{
			ID: fmt.Sprintf("photo-%d", i+1), Image: base64.StdEncoding.EncodeToString(studio.SamplePhoto(i)),
		})
	}
	return job
}

// delivered counts the photos that an answer says are done.
func (a answer) delivered() int {
	var body struct {
		Results []struct {
			Status string `json:"status"`
			Image  string `json:"image"`
		} `json:"results"`
	}
	_ = json.Unmarshal(a.body, &body) // what cannot be read delivered nothing
	n := 0
	for _, r := range body.Results {
		if r.Status == "ok" && r.Image != "" {
			n++
		}
	}
	return n
}

type picture struct {
	Prompt string `json:"prompt"`
	N      int    `json:"n"`
	Size   string `json:"size"`
}

func pictures(n int) picture {
	return picture{Prompt: "a red bicycle by the sea", N: n, Size: "256x256"}
}
