package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"creditgate/lua"
	"creditgate/meter/outage"
)

// Defaults of the replay store.
const (
	AnswerBodyMax = 1 << 20                 // bytes of one answer's body
	AnswerMax     = AnswerBodyMax + 128<<10 // bytes of one answer, its head included
	AnswersBudget = 256 << 20               // bytes of all, shared evenly by the partitions
	answersKeep   = keySlotMs * time.Millisecond
)

// ReplayStore keeps the answers of requests with an Idempotency-Key for a day, in Redis but outside the credit
// keys. The budget counts the bytes of the answers themselves, each once, for the day that they live and at most an
// hour longer; the names of the keys and what Redis needs beside them are not counted, some 150 bytes an answer. An
// answer that does not fit is not kept, and its replay says so.
type ReplayStore struct {
	client  redis.UniversalClient
	library lua.Library
	budget  int64          // of one partition
	server  *outage.Server // nil: the Redis of the credit
}

// NewReplayStore connects to the Redis that keeps the answers.
func NewReplayStore(redisURL string, layout Layout) (*ReplayStore, error) {
	library, err := lua.Load()
	if err != nil {
		return nil, err
	}
	client, err := NewRedis(redisURL)
	if err != nil {
		return nil, err
	}
	return &ReplayStore{
		client: client, library: library, budget: AnswersBudget / int64(layout.Partitions),
	}, nil
}

func (s *ReplayStore) keys(id ReservationID) (used, answer string) {
	tag := fmt.Sprintf("{cg%d:%02d}r:", id.Layout, id.Partition)
	return tag + "used", tag + id.ID.String()
}

// Put keeps an answer, the first one of an id: a repeat changes nothing and counts nothing. stored is false when the
// answer is larger than AnswerMax or the budget is used up.
func (s *ReplayStore) Put(ctx context.Context, id ReservationID, answer []byte) (stored bool, err error) {
	if len(answer) > AnswerMax {
		return false, nil
	}
	used, key := s.keys(id)
	args := []any{answer, s.budget, answersKeep.Milliseconds()}
	n, err := s.client.FCall(ctx, s.library.StoreAnswer, []string{used, key}, args...).Int()
	if isUnloaded(err) {
		if err = loadLibrary(ctx, s.client, s.library); err == nil {
			n, err = s.client.FCall(ctx, s.library.StoreAnswer, []string{used, key}, args...).Int()
		}
	}
	if err != nil {
		return false, fmt.Errorf("meter: store the answer of %s: %w: %w: %w", id, errAnswers, ErrUnavailable, err)
	}
	s.server.OK()
	return n == 1, nil
}

// Get returns an answer; ok is false when it was not kept.
func (s *ReplayStore) Get(ctx context.Context, id ReservationID) (answer []byte, ok bool, err error) {
	_, key := s.keys(id)
	answer, err = s.client.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("meter: answer of %s: %w: %w: %w", id, errAnswers, ErrUnavailable, err)
	}
	s.server.OK()
	return answer, true, nil
}

// errAnswers says that the store of answers is the cause of a failure.
var errAnswers = errors.New("stored answers")

// Watch lets w count what fails because of a store that is not the Redis of the credit. It comes before that one's Engine.
func (s *ReplayStore) Watch(w *outage.Watch, log zerolog.Logger) {
	s.server = w.Add(outage.Options{
		Name: "The Redis of stored answers", Means: "answers are not stored, and a repeat of a charged request gets 409",
		Is: errAnswers, Log: log,
	})
}

// Close closes the connections.
func (s *ReplayStore) Close() error { return s.client.Close() }
