package stage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"creditgate/bench/cast"
	"creditgate/bench/measure"
	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// GrantsGiven is how many grants each account of a renewing stage has: that of the month that ends, and that of the next.
const GrantsGiven = 2

// beforeMidnight is where the clock of a renewing stage begins: long enough for a million accounts to be made.
const beforeMidnight = 12 * time.Hour

// revision is that of grants which were given once.
const revision = 1

// moveMax bounds a move of the clock, in which a gateway does what is due; its answer is small.
const (
	moveMax       = 3 * time.Minute
	moveAnswerMax = 4 << 10
)

// renewal is the subscription that every account has, as it is a little before midnight.
type renewal struct {
	policy   *policy.Policy
	midnight time.Time
	history  policy.History
	given    []policy.Due
	until    time.Time // grants go so far
}

// newRenewal is a subscription that began with the month before the given midnight, the first of a month in UTC.
func newRenewal(midnight time.Time) (*renewal, error) {
	p, err := policy.Parse("bench.yaml", []byte(cast.Policy+cast.RenewalRules))
	if err != nil {
		return nil, fmt.Errorf("the bench's own policy: %w", err)
	}
	began := midnight.AddDate(0, -1, 0)
	r := &renewal{policy: p, midnight: midnight, history: policy.History{{At: began, Plan: cast.Plan, Anchor: began}}}
	at := midnight.Add(-beforeMidnight)
	var due time.Time
	r.until, due = p.Ahead(r.history, at)
	r.given = p.Due(r.history, nil, nil, at, r.until)
	if len(r.given) != GrantsGiven || !due.Equal(midnight) || !r.given[0].ExpiresAt.Equal(midnight) {
		return nil, fmt.Errorf("the bench's own policy gives %d grants before %s and is due at %s", len(r.given), midnight, due)
	}
	return r, nil
}

// tables are the subscriptions of accounts a. Without them there are none.
func (r *renewal) tables(a accounts) []table {
	if r == nil {
		return nil
	}
	none := make([]byte, sha256.Size)
	return []table{{
		name: "subscription_term", columns: []string{"account", "n", "at", "plan", "slots", "anchor", "fingerprint", "recorded_at"},
		row: func(i, _ int) []any {
			t := r.history[0]
			return []any{cast.Account(i), int32(1), t.At, t.Plan, int32(t.Slots), t.Anchor, none, a.made}
		},
	}, {
		name: "cycle_grant", each: len(r.given),
		columns: []string{"account", "key", "revision", "grant_id", "expires_at", "policy_version"},
		row: func(i, g int) []any {
			d := r.given[g]
			return []any{cast.Account(i), d.Key, int32(revision), [16]byte(a.id(idGrant, i, g)), d.ExpiresAt, r.policy.Version()}
		},
	}, {
		name: "subscription_due", columns: []string{"account", "product", "policy_version", "issued_until", "due_at"},
		row: func(i, _ int) []any {
			return []any{cast.Account(i), cast.Product, r.policy.Version(), r.until, r.midnight}
		},
	}}
}

// beginRenewal makes the stage's database a test database whose time comes before the next first of a month, so that it
// lies in the future and every step to midnight is one ahead.
func (s *Stage) beginRenewal(ctx context.Context, ownerURL string) (err error) {
	at := time.Now().UTC().Add(beforeMidnight)
	if s.renewal, err = newRenewal(time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		return err
	}
	begin := s.renewal.midnight.Add(-beforeMidnight)
	s.clock.Set(time.Until(begin).Truncate(time.Millisecond))
	return persist.BeginTestClock(ctx, ownerURL, begin)
}

// policy is that of the gateways.
func (s *Stage) policy() string {
	if s.Renewing {
		return cast.Policy + cast.RenewalRules
	}
	return cast.Policy
}

// ToMidnight is how long it is by the stage's clock until everybody's month ends; below 0 afterwards.
func (s *Stage) ToMidnight() time.Duration { return s.renewal.midnight.Sub(s.clock.Now()) }

// Approach moves the clock of the gateway to a time before midnight.
func (s *Stage) Approach(ctx context.Context, ahead time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, moveMax)
	defer cancel()
	body, err := json.Marshal(map[string]time.Time{"now": s.renewal.midnight.Add(-ahead)})
	if err != nil {
		return err
	}
	g := s.gateways[0].control
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, g.Control+"/v1/clock", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("move the clock: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, moveAnswerMax))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	var moved struct {
		OffsetMs int64 `json:"offset_ms"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &moved)
	}
	if err != nil {
		return fmt.Errorf("move the clock: %w: %s", err, answer)
	}
	s.clock.Set(time.Duration(moved.OffsetMs) * time.Millisecond)
	return nil
}

// Renewed is how far renewing everybody's subscription is.
type Renewed struct {
	Issued  int64 // accounts whose next grants are recorded
	Lapsed  int64 // grants of the month that ended, in Redis
	Made    int64 // ledger records, in Redis
	Flushed int64 // … and in Postgres
}

// Names of series of creditgate.
const (
	metricIssued = "creditgate_issuer_accounts_total"
	metricLapsed = "creditgate_grants_lapsed_total"
)

// Renewed looks how far it is. Nothing is counted in Postgres, since a million rows would be a load of its own.
func (s *Stage) Renewed(ctx context.Context) (r Renewed, err error) {
	gateways := make([]measure.Gateway, len(s.gateways))
	for i, g := range s.gateways {
		gateways[i] = g.control
	}
	m, err := measure.ReadMetrics(ctx, gateways)
	if err != nil {
		return r, err
	}
	r.Issued, r.Lapsed = int64(m[metricIssued]), int64(m[metricLapsed])
	made, behind, err := s.Backlog.Ledger(ctx)
	r.Made, r.Flushed = made, made-behind
	return r, err
}

// Applied reports whether Redis has every grant that is recorded, and Postgres knows it.
func (s *Stage) Applied(ctx context.Context) (applied bool, err error) {
	const query = `SELECT NOT EXISTS (SELECT FROM creditgate.grant_lot WHERE status = 'pending')`
	err = s.store.Pool().QueryRow(ctx, query).Scan(&applied)
	if err != nil {
		return false, fmt.Errorf("whether Redis has all grants: %w", err)
	}
	return applied, nil
}

// CheckRenewed returns an error unless each account was given exactly one grant more, and has its old one no longer.
func (s *Stage) CheckRenewed(ctx context.Context) error {
	var grants, lapsed, due int
	err := s.store.Pool().QueryRow(ctx, `SELECT
			(SELECT count(*) FROM creditgate.cycle_grant c JOIN creditgate.grant_lot g ON g.id = c.grant_id
				WHERE NOT c.superseded AND g.status = 'applied'),
			(SELECT count(*) FROM creditgate.grant_state WHERE expires_at <= $1 AND lapsed > 0),
			(SELECT count(*) FROM creditgate.subscription_due WHERE due_at > $1)`, s.renewal.midnight).
		Scan(&grants, &lapsed, &due)
	if err != nil {
		return fmt.Errorf("what was renewed: %w", err)
	}
	if n := s.Accounts; grants != (GrantsGiven+1)*n || lapsed != n || due != n {
		return fmt.Errorf("of %d accounts, %d are due at the next midnight, with %d grants in all, and %d lapsed; each should have "+
			"%d, and one should have lapsed", n, due, grants, lapsed, GrantsGiven+1)
	}
	return nil
}

// Resident is the memory of all gateways in RAM, and the most that each had since it started.
func (s *Stage) Resident() (now, peak float64, err error) {
	for _, g := range s.gateways {
		n, p, err := measure.Resident(g.pid())
		if err != nil {
			return 0, 0, err
		}
		now, peak = now+n, peak+p
	}
	return now, peak, nil
}

// MemoryPerAccount is what all masters use beyond what they did empty, by account.
func (s *Stage) MemoryPerAccount(ctx context.Context) (float64, error) {
	used, err := s.memory(ctx)
	return (used - s.empty) / float64(s.Accounts), err
}

// LedgerPerAccount is the part of it that is the ledger: what Redis keeps of it after Postgres has it.
func (s *Stage) LedgerPerAccount(ctx context.Context) (float64, error) {
	client, err := meter.NewRedis(s.redisURL)
	if err != nil {
		return 0, err
	}
	defer client.Close() //nolint:errcheck // only read
	sum := int64(0)
	for p := range s.layout.Partitions {
		n, err := client.MemoryUsage(ctx, s.layout.Keys(p).Ledger(), 0).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return 0, fmt.Errorf("memory of the ledger of partition %d: %w", p, err)
		}
		sum += n
	}
	return float64(sum) / float64(s.Accounts), nil
}

func (s *Stage) memory(ctx context.Context) (float64, error) {
	all, err := measure.ReadRedis(ctx, s.clients)
	return measure.SumRedis(all).Memory, err
}
