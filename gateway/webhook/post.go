package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Bounds of one attempt.
const (
	postTimeout = 10 * time.Second // to dial, send and have the answer
	answerMax   = 4 << 10          // bytes of an answer that are read, so that its connection can be used again
	headMax     = 16 << 10         // bytes of an answer's head
)

// Event is an event as consumers see it, in the feed and in what is posted.
type Event struct {
	ID      int64           `json:"id"`
	Type    string          `json:"type"`
	Account string          `json:"account"`
	Product string          `json:"product"`
	At      string          `json:"at"`
	Data    json.RawMessage `json:"data"`
}

// Delivery is one attempt to post an event.
type Delivery struct {
	Webhook string
	URL     string
	Secrets []string
	Attempt int
	Event   Event
}

// errGone is the receiver's wish to be told no more.
var errGone = errors.New("answered 410")

// poster makes attempts.
type poster struct{ plain, tls *http.Client }

func newPoster(networks Networks, lanes int) *poster {
	client := func(tls bool) *http.Client {
		return &http.Client{
			Timeout: postTimeout,
			Transport: &http.Transport{
				DialContext:            networks.dialer(tls), // and no proxy of the environment: it would dial unchecked
				TLSHandshakeTimeout:    dialTimeout,
				MaxIdleConns:           lanes * laneWidth,
				MaxIdleConnsPerHost:    laneWidth,
				IdleConnTimeout:        time.Minute,
				MaxResponseHeaderBytes: headMax,
				ForceAttemptHTTP2:      true,
			},
			// A redirect would post the event to where nobody decided that it goes.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &poster{plain: client(false), tls: client(true)}
}

func (p *poster) close() {
	p.plain.CloseIdleConnections()
	p.tls.CloseIdleConnections()
}

// post makes one attempt. nil: it was taken.
func (p *poster) post(ctx context.Context, d Delivery) error {
	body, err := json.Marshal(d.Event)
	if err != nil {
		return err
	}
	now, id := time.Now(), strconv.FormatInt(d.Event.ID, 10)
	signature, err := sign(d.Secrets, id, now, body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "creditgate")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	client := p.plain
	if req.URL.Scheme == "https" {
		client = p.tls
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which may hold a token
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerMax)) // the status says all
	switch {
	case resp.StatusCode == http.StatusGone:
		return errGone
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	return nil
}
