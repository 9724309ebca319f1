package webhook

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter/outage"
)

// Queue is where deliveries come from. A delivery that was claimed and not settled within the lease is handed out
// again, to any gateway.
type Queue interface {
	// Due names the webhooks that have something to be posted now.
	Due(ctx context.Context) ([]string, error)
	// Claim takes up to limit deliveries of one webhook.
	Claim(ctx context.Context, webhook string, limit int, lease time.Duration) ([]Delivery, error)
	Delivered(ctx context.Context, d Delivery) error
	// Failed says why; gone that the receiver wants no more.
	Failed(ctx context.Context, d Delivery, why string, gone bool) error
}

// Options are the sender's settings.
type Options struct {
	Networks Networks
	// Every is the pause between looks at the queue when nothing was due; default 1 s.
	Every time.Duration
	// Lanes is how many webhooks are served at once; default 32.
	Lanes int
	// Outages counts what fails because the queue is away; nil: each failure is logged.
	Outages *outage.Watch
}

// Bounds of the sender.
const (
	laneWidth     = 8               // deliveries of one webhook that are under way in one gateway
	settleTimeout = 5 * time.Second // to tell the queue what became of one, also while shutting down
	// lease is longer than an attempt and its settling, so that nobody posts what is being posted.
	lease = postTimeout + 2*settleTimeout
)

// Sender posts what the queue has. Every gateway runs one; the queue hands each delivery to one of them.
type Sender struct {
	queue    Queue
	poster   *poster
	options  Options
	attempts *prometheus.CounterVec
	log      zerolog.Logger

	mu   sync.Mutex
	busy map[string]bool // webhooks that have a lane
}

// NewSender makes a sender.
func NewSender(queue Queue, options Options, reg prometheus.Registerer, log zerolog.Logger) *Sender {
	if options.Every == 0 {
		options.Every = time.Second
	}
	if options.Lanes == 0 {
		options.Lanes = 32
	}
	s := &Sender{
		queue: queue, poster: newPoster(options.Networks, options.Lanes), options: options, log: log, busy: map[string]bool{},
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_webhook_attempts_total", Help: "Attempts to post an event to a webhook.",
		}, []string{"outcome"}),
	}
	reg.MustRegister(s.attempts)
	return s
}

// Run posts until ctx ends; attempts under way are broken off then, and made again by another gateway.
func (s *Sender) Run(ctx context.Context) {
	var lanes sync.WaitGroup
	defer s.poster.close()
	defer lanes.Wait()
	for {
		due, err := s.queue.Due(ctx)
		if err != nil && ctx.Err() == nil {
			s.options.Outages.Log(s.log, err).Msg("webhooks wait: the queue does not answer")
		}
		for _, webhook := range due {
			if s.enter(webhook) {
				lanes.Go(func() {
					defer s.leave(webhook)
					s.lane(ctx, webhook)
				})
			}
		}
		timer := time.NewTimer(s.options.Every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (s *Sender) enter(webhook string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[webhook] || len(s.busy) >= s.options.Lanes {
		return false
	}
	s.busy[webhook] = true
	return true
}

func (s *Sender) leave(webhook string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, webhook)
}

// lane posts one webhook's deliveries until none is due, so that a slow receiver delays nobody else's.
func (s *Sender) lane(ctx context.Context, webhook string) {
	for ctx.Err() == nil {
		claimed, err := s.queue.Claim(ctx, webhook, laneWidth, lease)
		if err != nil {
			if ctx.Err() == nil {
				s.options.Outages.Log(s.log, err).Str("webhook", webhook).Msg("webhook waits: the queue does not answer")
			}
			return
		}
		if len(claimed) == 0 {
			return
		}
		var under sync.WaitGroup
		for _, d := range claimed {
			under.Go(func() { s.deliver(ctx, d) })
		}
		under.Wait()
	}
}

// deliver makes one attempt and settles it.
func (s *Sender) deliver(ctx context.Context, d Delivery) {
	err := s.poster.post(ctx, d)
	if ctx.Err() != nil && err != nil {
		return // it was us who broke it off; the lease runs out
	}
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	outcome := "delivered"
	var settle error
	if err == nil {
		settle = s.queue.Delivered(settling, d)
	} else {
		outcome = "failed"
		s.log.Debug().Err(err).Str("webhook", d.Webhook).Int64("event", d.Event.ID).Int("attempt", d.Attempt).
			Msg("webhook did not take an event")
		settle = s.queue.Failed(settling, d, err.Error(), errors.Is(err, errGone))
	}
	s.attempts.WithLabelValues(outcome).Inc()
	if settle != nil {
		s.options.Outages.Log(s.log, settle).Str("webhook", d.Webhook).Int64("event", d.Event.ID).
			Msg("the outcome was not kept; the event is posted again")
	}
}
