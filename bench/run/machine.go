package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// openHall starts what all stages share. The bench's own program serves as target and client.
func openHall(ctx context.Context, dir string, c *config) (*stage.Hall, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(c.binary)
	if err != nil {
		return nil, err
	}
	return stage.Open(ctx, dir, stage.Programs{Self: self, Creditgate: binary})
}

// machine says what the run shares. What cannot be read stays empty.
func machine() result.Machine {
	return result.Machine{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), RAMBytes: memoryTotal(), Kernel: kernel(),
	}
}

// field is the value of the first line "name : value" of a file.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func memoryTotal() int64 {
	kib, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	return kib << 10
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(runtime.GOOS + " " + string(text))
}

// versions asks each program. One that is not here has none.
func versions(ctx context.Context, binary string) result.Versions {
	return result.Versions{
		Go: runtime.Version(), Redis: says(ctx, "redis-server", "--version"), Postgres: says(ctx, "postgres", "--version"),
		Nginx: says(ctx, "nginx", "-v"), Creditgate: says(ctx, binary, "version"),
	}
}

// says is the first line that a program prints.
func says(ctx context.Context, program string, args ...string) string {
	//nolint:gosec // the program is the one that the user names with -binary
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
