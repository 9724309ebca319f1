package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"creditgate/meter/policy"
)

// storyHeadMax bounds how long a request's head may take to arrive at the stand-in backend.
const storyHeadMax = 10 * time.Second

// storyBackend is the backend of a story. It answers the next request as it was told to.
type storyBackend struct {
	server *http.Server
	url    string
	served chan error

	mu     sync.Mutex
	answer policy.Answer
	units  uint32 // that the request in the making asks for
}

func newStoryBackend(ctx context.Context) (*storyBackend, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	b := &storyBackend{url: "http://" + l.Addr().String(), served: make(chan error, 1)}
	b.server = &http.Server{Handler: http.HandlerFunc(b.serve), ReadHeaderTimeout: storyHeadMax}
	go func() { b.served <- b.server.Serve(l) }()
	return b, nil
}

func (b *storyBackend) close() error {
	err := b.server.Close()
	if served := <-b.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// say decides the answer to the requests that follow.
func (b *storyBackend) say(answer policy.Answer, units uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer, b.units = answer, units
}

func (b *storyBackend) serve(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // a request cut short is the gateway's business
	b.mu.Lock()
	answer, units := b.answer, b.units
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch answer.Kind {
	case policy.AnswersAll:
		writeItems(w, units, units)
	case policy.AnswersPart:
		writeItems(w, answer.Delivered, answer.Of)
	case policy.AnswersNone:
		<-r.Context().Done()
	case policy.AnswersSo:
		w.WriteHeader(answer.Status)
		_, _ = w.Write(answer.Body)
	case policy.AnswersFail:
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"error":{"message":"failed, as the scenario says"}}`)
	}
}

// storyItem is one item of an answer, as the examples' operations count them.
type storyItem struct {
	Status string `json:"status"`
}

// writeItems delivers k of n items, in each of the shapes that the examples' operations count: results with a status
// each, and data with what was delivered.
func writeItems(w io.Writer, k, n uint32) {
	var answer struct {
		Results []storyItem `json:"results"`
		Data    []storyItem `json:"data"`
	}
	for i := range n {
		item := storyItem{"ok"}
		if i < k {
			answer.Data = append(answer.Data, item)
		} else {
			item.Status = "failed"
		}
		answer.Results = append(answer.Results, item)
	}
	if b, err := json.Marshal(answer); err == nil { // it always can be
		_, _ = w.Write(b) // the gateway going away is its own business
	}
}
