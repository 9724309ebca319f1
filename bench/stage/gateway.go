package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"creditgate/bench/measure"
)

// adminToken is that of the gateways' control planes, on loopback.
const adminToken = "a-token-for-the-bench"

// gatewayPoll is how often a starting gateway is asked whether it is ready.
const gatewayPoll = 20 * time.Millisecond

// gateway is one `creditgate serve`.
type gateway struct {
	*process

	data    string // address
	control measure.Gateway
}

func (s *Stage) startGateways(ctx context.Context) error {
	policy := filepath.Join(s.dir, "bench.yaml")
	if err := os.WriteFile(policy, []byte(s.policy()), 0o600); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	for i := range s.Gateways {
		if err := s.startGateway(ctx, fmt.Sprintf("gateway-%d", i+1), policy); err != nil {
			return err
		}
	}
	return nil
}

// startGateway starts one with the defaults of an operator, but for the regular comparison of all accounts: it would
// fall into some cells and not into others.
func (s *Stage) startGateway(ctx context.Context, name, policy string) error {
	cmd := exec.Command(s.hall.creditgate, "serve") //nolint:noctx // it is told to end, in its turn
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"CREDITGATE_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_TOKEN=" + adminToken,
		"CREDITGATE_REDIS_URL=" + s.redisURL, "CREDITGATE_POSTGRES_URL=" + s.writer,
		"CREDITGATE_POLICY=" + policy, "CREDITGATE_UPSTREAM=http://" + s.address,
		"CREDITGATE_JOURNAL_DIR=" + filepath.Join(s.dir, name+"-journal"),
		fmt.Sprintf("CREDITGATE_PARTITIONS=%d", s.Partitions), fmt.Sprintf("CREDITGATE_LAYOUT=%d", layoutNumber),
		"CREDITGATE_VERIFY_EVERY=0s",
	}
	if s.Renewing {
		cmd.Env = append(cmd.Env, "CREDITGATE_TEST_CLOCK=true")
	}
	for _, setting := range []string{"GOGC", "GOMEMLIMIT", "GODEBUG"} { // for those who try them
		if v, set := os.LookupEnv(setting); set {
			cmd.Env = append(cmd.Env, setting+"="+v)
		}
	}
	var where struct {
		Data    string `json:"data"`
		Control string `json:"control"`
	}
	p, line, err := launch(ctx, s.dir, name, cmd, func(line string) bool { return strings.Contains(line, `"listening"`) })
	if err != nil {
		return err
	}
	s.closers = append(s.closers, p.stop)
	if err := json.Unmarshal([]byte(line), &where); err != nil {
		return fmt.Errorf("%s says where it listens in %q: %w", name, line, err)
	}
	g := &gateway{process: p, data: where.Data, control: measure.Gateway{Control: "http://" + where.Control, Token: adminToken}}
	s.gateways = append(s.gateways, g)
	return g.awaitReady(ctx)
}

func (g *gateway) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.control.Control+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; %s ends:\n%s", g.name, err, g.log, tail(g.log))
		case <-g.done:
			return fmt.Errorf("%s ended while starting; %s ends:\n%s", g.name, g.log, tail(g.log))
		case <-time.After(gatewayPoll):
		}
	}
}
