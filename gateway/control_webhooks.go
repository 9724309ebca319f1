package gateway

import (
	"context"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/gateway/webhook"
)

const redeliverTimeout = 30 * time.Second // thousands of rows are written

type webhookBody struct {
	URL    string   `json:"url"`
	Secret string   `json:"secret"`
	Types  []string `json:"types"`
}

type webhookView struct {
	Name           string   `json:"name"`
	URL            string   `json:"url"`
	Types          []string `json:"types"`
	State          string   `json:"state"` // enabled or disabled
	DisabledAt     *string  `json:"disabled_at"`
	DisabledReason *string  `json:"disabled_reason"`
	FailingSince   *string  `json:"failing_since"`
	LastError      *string  `json:"last_error"`
	Pending        int64    `json:"pending"`
	Failed         int64    `json:"failed"`
	CreatedAt      string   `json:"created_at"`
	Secret         string   `json:"secret,omitempty"` // once, where it was made here
}

func newWebhookView(s WebhookState) webhookView {
	v := webhookView{
		Name: s.Name, URL: s.URL, Types: s.Types, State: "enabled", DisabledReason: optional(s.DisabledReason),
		LastError: optional(s.LastError), Pending: s.Pending, Failed: s.Failed, CreatedAt: timeText(s.CreatedAt),
	}
	if v.Types == nil {
		v.Types = []string{}
	}
	if !s.DisabledAt.IsZero() {
		v.State, v.DisabledAt = "disabled", optional(timeText(s.DisabledAt))
	}
	if !s.FailingSince.IsZero() {
		v.FailingSince = optional(timeText(s.FailingSince))
	}
	return v
}

// putWebhook sets a webhook up, or changes it and enables it again. A secret that is made here is shown once.
func (g *Gateway) putWebhook(c *call) (int, any, *problem) {
	var b webhookBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	if b.URL == "" {
		return 0, nil, &problem{
			code: codeInvalid, param: "url", detail: "url is required: where events are posted to, such as https://example.com/hook",
		}
	}
	if err := g.webhooks.CheckURL(b.URL); err != nil {
		return 0, nil, &problem{code: codeInvalid, param: "url", detail: err.Error()}
	}
	if b.Secret != "" {
		if err := webhook.CheckSecret(b.Secret); err != nil {
			return 0, nil, &problem{code: codeInvalid, param: "secret", detail: err.Error()}
		}
	}
	types, p := g.eventTypes("types", b.Types)
	if p != nil {
		return 0, nil, p
	}
	w := NewWebhook{Name: c.names[0], URL: b.URL, Secret: b.Secret, Fresh: webhook.NewSecret(), Types: types, Actor: c.actor}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.webhooks.PutWebhook(ctx, w)
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	v := newWebhookView(s)
	if s.Created && b.Secret == "" {
		v.Secret = w.Fresh
	}
	return changed(true, !s.Created), v, nil
}

func (g *Gateway) getWebhook(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.webhooks.Webhook(ctx, c.names[0])
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	return fasthttp.StatusOK, newWebhookView(s), nil
}

func (g *Gateway) getWebhooks(*call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	all, err := g.webhooks.Webhooks(ctx)
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	out := struct {
		Webhooks []webhookView `json:"webhooks"`
	}{Webhooks: make([]webhookView, 0, len(all))}
	for _, s := range all {
		out.Webhooks = append(out.Webhooks, newWebhookView(s))
	}
	return fasthttp.StatusOK, out, nil
}

func (g *Gateway) deleteWebhook(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	if err := g.webhooks.DeleteWebhook(ctx, c.names[0], c.actor); err != nil {
		return 0, nil, g.storageProblem(err)
	}
	return fasthttp.StatusNoContent, nil, nil
}

type redeliverBody struct {
	After *int64 `json:"after"`
}

// postRedeliver queues events again, a page of them; next_after is the after of the next call, for more.
func (g *Gateway) postRedeliver(c *call) (int, any, *problem) {
	var b redeliverBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	if b.After == nil || *b.After < 0 {
		return 0, nil, &problem{
			code: codeInvalid, param: "after",
			detail: "after is required: the id of the last event that needs no redelivery, or 0",
		}
	}
	var out struct {
		Queued    int64 `json:"queued"`
		NextAfter int64 `json:"next_after"`
	}
	ctx, cancel := context.WithTimeout(g.base, redeliverTimeout)
	defer cancel()
	var err error
	if out.Queued, out.NextAfter, err = g.webhooks.Redeliver(ctx, c.names[0], *b.After); err != nil {
		return 0, nil, g.storageProblem(err)
	}
	return fasthttp.StatusOK, out, nil
}
