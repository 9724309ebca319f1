package redisd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// These tests change PATH, so they do not run in parallel.

func TestFindLooksBeyondPath(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	path := filepath.Join(dir, "valkey-server")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
	got, err := find([]string{t.TempDir(), dir})
	require.NoError(t, err)
	require.Equal(t, path, got)
}

func TestFindNamesTheFix(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	_, err := find([]string{"/neither"})
	require.EqualError(t, err, "redisd: found neither redis-server nor valkey-server on PATH (/nowhere) nor in /neither: "+
		"install one (apt-get install redis-server, or brew install redis; make run and make test do it for you)")
}

func TestProbeRefusesAnOldServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ version, want string }{
		{"6.2.14", "version 6.2.14 is too old: install Redis 7.0 or newer, or Valkey"},
		{"", "version  is too old: install Redis 7.0 or newer, or Valkey"},
		{"7.0.0", ""},
		{"10.1", ""},
	} {
		err := probe(t.Context(), fakeServer(t, "process_id:7\r\nredis_version:"+c.version+"\r\n"), 7)
		if c.want == "" {
			require.NoError(t, err, c.version)
		} else {
			require.EqualError(t, err, c.want)
		}
	}
}

func TestProbeRefusesAnotherServer(t *testing.T) {
	t.Parallel()
	err := probe(t.Context(), fakeServer(t, "process_id:8\r\nredis_version:7.0.0\r\n"), 7)
	require.ErrorContains(t, err, "another server (pid 8) answers on 127.0.0.1:")
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), logName)
	require.NoError(t, os.WriteFile(path, make([]byte, logKeepMax+1), 0o600))
	f, at, err := openLog(path)
	require.NoError(t, err)
	require.Zero(t, at)
	require.NoError(t, f.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Zero(t, info.Size())
}
