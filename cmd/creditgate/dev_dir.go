package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"creditgate/bench/studio"
	"creditgate/meter/policy"
)

// devDir is the directory of `creditgate dev`: one run at a time.
//
//	dev.json       what runs, for scripts; there while everything is up
//	policy.yaml    a copy of the embedded policy, to be edited
//	*.log          the gateway's and the backend's; Redis' and Postgres' are in their directories
//	redis, postgres, journal
//	samples        request bodies for the curl lines
//	admin-token
type devDir struct {
	root  string // as the user gave it, for messages
	lock  *os.File
	token string // of the control plane
}

// openDevDir makes the directory if need be, and takes it for this process.
func openDevDir(root string) (_ *devDir, err error) {
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // Postgres enters it as another user
		return nil, fmt.Errorf("--dir: %w", err)
	}
	d := &devDir{root: root}
	lock, err := os.OpenFile(d.path("dev.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(lock, 32)) // its pid is for the message only
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another creditgate dev (pid %s) is running in %s: stop it, or choose another directory with --dir",
				strings.TrimSpace(string(owner)), root)
		}
		return nil, fmt.Errorf("--dir: lock %s: %w", lock.Name(), err)
	}
	d.lock = lock
	_ = lock.Truncate(0) // names the owner to whoever comes second
	_, _ = lock.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	if err := os.Remove(d.path("dev.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, d.close())
	}
	if d.token, err = d.readToken(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *devDir) path(name string) string { return filepath.Join(absolute(d.root), name) }

// shown is a path for people: as short as they named the directory.
func (d *devDir) shown(name string) string { return filepath.Join(d.root, name) }

// close gives the directory back. dev.json goes: nothing of what it names is running.
func (d *devDir) close() error {
	err := os.Remove(d.path("dev.json"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.lock.Close())
}

// clear deletes what earlier runs left, but for Postgres' data, which may lie elsewhere and is cleared by it.
func (d *devDir) clear() error {
	for _, name := range [...]string{"redis", "journal", "samples", "policy.yaml", "gateway.log", "backend.log"} {
		if err := os.RemoveAll(d.path(name)); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	return nil
}

// readToken returns the control plane's token, making it the first time.
func (d *devDir) readToken() (string, error) {
	path := d.path("admin-token")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	token := hex.EncodeToString(random[:])
	return token, os.WriteFile(path, []byte(token+"\n"), 0o600)
}

// defaultPolicy is the user's copy of the embedded dev policy, made the first time.
func (d *devDir) defaultPolicy() (string, error) {
	path := d.shown("policy.yaml")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	src, err := policy.Example("dev")
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, src, 0o644) //nolint:gosec // nothing in it is secret
}

// writeSamples makes the bodies of the curl lines that are too long to paste.
func (d *devDir) writeSamples() error {
	if err := os.MkdirAll(d.path("samples"), 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return err
	}
	body, err := json.Marshal(sampleApply(3))
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("samples/apply.json"), body, 0o644) //nolint:gosec // nothing in it is secret
}

type samplePhoto struct {
	ID    string `json:"id"`
	Image string `json:"image"`
}

type sampleJob struct {
	Photos     []samplePhoto `json:"photos"`
	Background string        `json:"background"`
}

// sampleApply is a request to put n sample photos before a coloured background.
func sampleApply(n int) sampleJob {
	job := sampleJob{Background: "#dde7f0"}
	for i := range n {
		job.Photos = append(job.Photos, samplePhoto{
			ID: fmt.Sprintf("photo-%d", i+1), Image: base64.StdEncoding.EncodeToString(studio.SamplePhoto(i)),
		})
	}
	return job
}
