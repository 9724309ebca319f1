package gateway

import (
	"context"
	"errors"
	"time"

	"creditgate/gateway/webhook"
)

// ErrTooMany says that there are as many of something as there may be.
var ErrTooMany = errors.New("too many")

// Feed reads what happened to accounts.
type Feed interface {
	// Events returns what comes after an id, oldest first, and the id to go on after.
	Events(ctx context.Context, q EventQuery) (EventPage, error)
	// EventTypes are the types there are.
	EventTypes() []string
}

// EventQuery says which events are wanted. Empty Types and Account match all.
type EventQuery struct {
	After   int64
	Limit   int
	Types   []string
	Account string
}

// EventPage is a stretch of the feed. Next goes on after it, also when nothing matched.
type EventPage struct {
	Events []webhook.Event
	Next   int64
}

// Webhooks sets up where events are posted. ErrUnknown for a webhook that does not exist.
type Webhooks interface {
	// PutWebhook sets one up, or changes and enables it; ErrTooMany.
	PutWebhook(ctx context.Context, w NewWebhook) (WebhookState, error)
	Webhook(ctx context.Context, name string) (WebhookState, error)
	Webhooks(ctx context.Context) ([]WebhookState, error)
	DeleteWebhook(ctx context.Context, name, actor string) error
	// Redeliver queues events after an id again, a bounded number of them; next goes on.
	Redeliver(ctx context.Context, name string, after int64) (queued, next int64, err error)
	// CheckURL says why nothing could be posted to a URL.
	CheckURL(url string) error
}

// NewWebhook is a webhook to be set up, or changed.
type NewWebhook struct {
	Name   string
	URL    string
	Secret string // empty: the one it has, or Fresh
	Fresh  string // for a new one without a secret
	Types  []string
	Actor  string
}

// WebhookState is a webhook as it stands, without its secret. Zero times are those that did not come.
type WebhookState struct {
	Name           string
	URL            string
	Types          []string
	CreatedAt      time.Time
	FailingSince   time.Time
	LastError      string
	DisabledAt     time.Time
	DisabledReason string
	Pending        int64
	Failed         int64
	Created        bool // by this call
}
