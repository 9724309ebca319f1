package outage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter/outage"
)

// lines is a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) with(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

var errAway = errors.New("away")

// server is one whose check answers what the test says.
type server struct {
	mu  sync.Mutex
	err error
}

func (s *server) check(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, context.DeadlineExceeded) {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.err
}

func (s *server) answers(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func TestOutageIsTwoLines(t *testing.T) {
	t.Parallel()
	log, redis, watch := &lines{}, &server{}, &outage.Watch{}
	s := watch.Add(outage.Options{
		Name: "Redis", Means: "requests get 503", Is: errAway, Check: redis.check, Log: zerolog.New(log),
	})
	require.Equal(t, "it was not asked yet", s.State().Cause)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.Run(ctx)
	state := func(up bool, cause string) {
		t.Helper()
		require.Eventually(t, func() bool {
			now := s.State()
			return now.Up == up && now.Cause == cause && now.Since.IsZero() == up
		}, 20*time.Second, time.Millisecond, "not %v %q", up, cause)
	}
	state(true, "")
	redis.answers(errors.New("connection refused"))
	state(false, "connection refused")
	redis.answers(context.DeadlineExceeded)
	state(false, "it does not answer")
	for range 50 {
		watch.Log(zerolog.New(log), fmt.Errorf("reserve: %w", errAway)).Msg("cannot reserve")
	}
	redis.answers(nil)
	state(true, "")
	require.Eventually(t, func() bool { return len(log.with("Redis is back")) == 1 }, 20*time.Second, time.Millisecond)
	require.Contains(t, log.with("Redis is back")[0], `"failed":50`)
	require.Len(t, log.with(`"level":"warn"`), 1, "one line on loss")
	require.Contains(t, log.with(`"level":"warn"`)[0], "Redis is away: requests get 503")
	require.Len(t, log.with(`"level":"debug"`), 50)
}

func TestOtherErrorsAreWarnings(t *testing.T) {
	t.Parallel()
	log, watch := &lines{}, &outage.Watch{}
	store := watch.Add(outage.Options{Name: "The store", Is: errAway, Log: zerolog.New(log)})
	watch.Log(zerolog.New(log), errors.New("a bug")).Msg("failed")
	var none *outage.Watch
	none.Log(zerolog.New(log), errAway).Msg("failed")
	require.Len(t, log.with(`"level":"warn"`), 2)
	require.True(t, store.State().Up, "no call of it failed, and it has no check")
}
