package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Bounds of the demo.
const (
	startMax = 2 * time.Minute // the first run makes a Postgres cluster
	stopMax  = 40 * time.Second
	filePoll = 20 * time.Millisecond
)

func main() {
	binary := flag.String("binary", "./creditgate", "the program to demonstrate")
	dir := flag.String("dir", ".demo", "directory for its data, made anew")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, os.Stdout, *binary, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

func run(ctx context.Context, out io.Writer, binary, dir string) (err error) {
	g, err := startGateway(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	r := &report{out: out}
	if err := tell(ctx, r, g); err != nil {
		return err
	}
	return r.verdict()
}

// gateway is a running `creditgate dev`.
type gateway struct {
	binary string
	dev    devJSON
	cmd    *exec.Cmd
	ended  chan struct{}
	output *bytes.Buffer // read only once ended is closed
}

// devJSON is what of dev.json the demo needs.
type devJSON struct {
	DataURL     string            `json:"data_url"`
	RedisURL    string            `json:"redis_url"`
	PostgresURL string            `json:"postgres_url"`
	Keys        map[string]string `json:"keys"`
}

// startGateway returns when dev.json says that everything is up.
func startGateway(ctx context.Context, binary, dir string) (*gateway, error) {
	file := filepath.Join(dir, "dev.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) { // of a run that was killed
		return nil, err
	}
	g := &gateway{binary: binary, ended: make(chan struct{}), output: &bytes.Buffer{}}
	// Not bound to ctx: it is stopped in order, so that its servers can write what they have.
	g.cmd = exec.CommandContext(context.WithoutCancel(ctx), binary,
		"dev", "--dir", dir, "--fresh", "--port", "0", "--admin-port", "0")
	g.cmd.Stdout, g.cmd.Stderr = g.output, g.output
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal reaches it through stop
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w; make build builds it", binary, err)
	}
	go func() {
		_ = g.cmd.Wait() // how it ended is asked by stop
		close(g.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &g.dev)
		}
		if err == nil {
			return g, nil
		}
		select {
		case <-time.After(filePoll):
		case <-g.ended:
			return nil, fmt.Errorf("%s dev ended before it was ready:\n%s", binary, g.output)
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s dev was not ready: %w", binary, ctx.Err()), g.stop())
		}
	}
}

// stop ends the gateway as Ctrl-C does; it must end well.
func (g *gateway) stop() error {
	_ = g.cmd.Process.Signal(os.Interrupt) // fails only if it has ended
	select {
	case <-g.ended:
	case <-time.After(stopMax):
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
	if !g.cmd.ProcessState.Success() {
		return fmt.Errorf("creditgate dev ended with %s:\n%s", g.cmd.ProcessState, g.output)
	}
	return nil
}

// verify runs `creditgate verify` and returns what it printed.
func (g *gateway) verify(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, g.binary, "verify", "--redis-url", g.dev.RedisURL, "--postgres-url", g.dev.PostgresURL)
	b, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(b)), err
}
