package main

import (
	"context"
	"time"

	"creditgate/gateway"
	"creditgate/gateway/webhook"
	"creditgate/persist"
	"creditgate/persist/events"
)

// asEvent is an event as consumers see it.
func asEvent(e events.Event) webhook.Event {
	return webhook.Event{
		ID: e.ID, Type: e.Type, Account: e.Account, Product: e.Product, At: e.At.Format("2006-01-02T15:04:05.000Z"),
		Data: e.Data,
	}
}

type feed struct{ feed *events.Feed }

func (f feed) Events(ctx context.Context, q gateway.EventQuery) (gateway.EventPage, error) {
	page, err := f.feed.Events(ctx, events.Query(q))
	out := gateway.EventPage{Next: page.Next, Events: make([]webhook.Event, len(page.Events))}
	for i, e := range page.Events {
		out.Events[i] = asEvent(e)
	}
	return out, asGateway(err)
}

func (f feed) EventTypes() []string { return events.Types() }

type webhooks struct {
	feed     *events.Feed
	networks webhook.Networks
}

func (w webhooks) PutWebhook(ctx context.Context, e gateway.NewWebhook) (gateway.WebhookState, error) {
	state, err := w.feed.PutEndpoint(ctx, events.NewEndpoint(e))
	return gateway.WebhookState(state), asGateway(err)
}

func (w webhooks) Webhook(ctx context.Context, name string) (gateway.WebhookState, error) {
	state, err := w.feed.Endpoint(ctx, name)
	return gateway.WebhookState(state), asGateway(err)
}

func (w webhooks) Webhooks(ctx context.Context) ([]gateway.WebhookState, error) {
	all, err := w.feed.Endpoints(ctx)
	out := make([]gateway.WebhookState, len(all))
	for i, e := range all {
		out[i] = gateway.WebhookState(e)
	}
	return out, asGateway(err)
}

func (w webhooks) DeleteWebhook(ctx context.Context, name, actor string) error {
	return asGateway(w.feed.DeleteEndpoint(ctx, name, actor))
}

func (w webhooks) Redeliver(ctx context.Context, name string, after int64) (queued, next int64, err error) {
	queued, next, err = w.feed.Redeliver(ctx, name, after)
	return queued, next, asGateway(err)
}

func (w webhooks) CheckURL(url string) error { return w.networks.CheckURL(url) }

// deliveries is the queue that webhooks are posted from.
type deliveries struct{ feed *events.Feed }

func (q deliveries) Due(ctx context.Context) ([]string, error) {
	due, err := q.feed.Due(ctx)
	return due, persist.Marked(err)
}

func (q deliveries) Claim(ctx context.Context, name string, limit int, lease time.Duration) ([]webhook.Delivery, error) {
	claimed, err := q.feed.Claim(ctx, name, limit, lease)
	out := make([]webhook.Delivery, len(claimed))
	for i, d := range claimed {
		out[i] = webhook.Delivery{
			Webhook: d.Webhook, URL: d.URL, Secrets: d.Secrets, Attempt: d.Attempt, Event: asEvent(d.Event),
		}
	}
	return out, persist.Marked(err)
}

func (q deliveries) Delivered(ctx context.Context, d webhook.Delivery) error {
	return persist.Marked(q.feed.Delivered(ctx, d.Webhook, d.Event.ID))
}

func (q deliveries) Failed(ctx context.Context, d webhook.Delivery, why string, gone bool) error {
	return persist.Marked(q.feed.Failed(ctx, d.Webhook, d.Event.ID, d.Attempt, why, gone))
}
