package postgresd

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// superuser is the cluster's only role until a migration makes others.
const superuser = "postgres"

// elsewhere is the data directory that root uses when dir is out of Postgres' reach. Only root can write
// /var/lib, so nobody can prepare the directory for it.
func elsewhere(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join("/var/lib/creditgate", hex.EncodeToString(sum[:6]))
}

// prepare makes the cluster if there is none, and removes a lock file that a crash left behind.
func (s *Server) prepare(ctx context.Context) error {
	_, err := os.Stat(filepath.Join(s.data, "PG_VERSION"))
	if err == nil {
		return s.unlock()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory %s: %w", s.data, err)
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := s.identity.own(s.data); err != nil {
		return fmt.Errorf("hand over data directory: %w", err)
	}
	return s.initdb(ctx)
}

func (s *Server) initdb(ctx context.Context) error {
	// --no-sync: a cluster that was never used is cheaply made again
	cmd := exec.CommandContext(ctx, s.bin.path("initdb"), "-D", s.data, "-U", superuser,
		"-E", "UTF8", "--locale=C", "-A", "trust", "--no-sync")
	cmd.Dir = "/"
	cmd.SysProcAttr = s.identity.sysProcAttr()
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	// half a cluster would be taken for a whole one the next time
	if rmErr := os.RemoveAll(s.data); rmErr != nil {
		err = errors.Join(err, rmErr)
	}
	return fmt.Errorf("initdb in %s: %w\n%s", s.data, err, out)
}

// unlock removes postmaster.pid when its process is no Postgres. Postgres itself takes any live process with that
// number for its predecessor, and in a restarted container numbers come back soon.
func (s *Server) unlock() error {
	name := filepath.Join(s.data, "postmaster.pid")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock file: %w", err)
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	_ = f.Close() // only read
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil || !isPostgres(pid) {
		return os.Remove(name)
	}
	return nil // it is running, or was just killed: starting finds out
}

// tail is the end of what the server's log got after position from, for errors.
func tail(name string, from int64) string {
	const lines, bytesMax = 12, 16 << 10
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(from, info.Size()-bytesMax), io.SeekStart) // failing that, the tail is merely longer
	}
	var last []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		last = append(last, scan.Text())
		if len(last) > lines {
			last = last[1:]
		}
	}
	return strings.Join(last, "\n")
}
