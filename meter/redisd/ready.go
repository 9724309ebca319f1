package redisd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	probeTimeout = time.Second // of one probe: a stopped server accepts connections and never answers
	probeRetry   = 2 * time.Millisecond
	infoMax      = 64 << 10 // bytes of INFO server; real ones have under 1 KiB
	majorMin     = 7        // the scripts need shebang flags, which came with Redis 7.0
)

var (
	errPortTaken = errors.New("its port is in use: choose another one, or stop what listens there")
	errTooOld    = errors.New("is too old: install Redis 7.0 or newer, or Valkey")
)

// ready waits until p answers on addr with its data loaded.
func (p *process) ready(ctx context.Context, addr string) error {
	for {
		err := probe(ctx, addr, p.pid())
		if err == nil || errors.Is(err, errTooOld) {
			return err
		}
		select {
		case <-p.exited:
			if strings.Contains(p.tail(), "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("it ended: %w", exitError(p.err))
		case <-ctx.Done():
			return fmt.Errorf("it was not ready in time (%w), and last: %w", context.Cause(ctx), err)
		case <-time.After(probeRetry):
		}
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// probe asks for PING, which is refused while data is being loaded, and for the server's pid: where two servers
// race for a port, the one that lost must not take the other's answer for its own.
func probe(ctx context.Context, addr string, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "PING\r\nINFO server\r\n"); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if pong, err := r.ReadString('\n'); err != nil || pong != "+PONG\r\n" {
		return errors.Join(err, fmt.Errorf("PING: %q", pong))
	}
	info, err := readBulk(r)
	if err != nil {
		return fmt.Errorf("INFO server: %w", err)
	}
	if got := field(info, "process_id"); got != strconv.Itoa(pid) {
		return fmt.Errorf("another server (pid %s) answers on %s", got, addr)
	}
	version := field(info, "redis_version") // Valkey reports the Redis it is compatible with
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < majorMin {
		return fmt.Errorf("version %s %w", version, errTooOld)
	}
	return nil
}

func readBulk(r *bufio.Reader) (string, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil || n < 0 || n > infoMax {
		return "", fmt.Errorf("unexpected reply %q", head)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

// field returns the value of one "name:value" line of INFO.
func field(info, name string) string {
	for line := range strings.SplitSeq(info, "\r\n") {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return value
		}
	}
	return ""
}
