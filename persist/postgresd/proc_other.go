//go:build !linux

package postgresd

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Without user namespaces root becomes an unprivileged user; the attempt to enter one must fail.
func enterNamespace(attr *syscall.SysProcAttr) { attr.Chroot = "/nonexistent-no-user-namespaces" }

// Without a parent-death signal a killed program leaves its Postgres behind; the next Start on the same directory
// says so.
func dieWithParent(*syscall.SysProcAttr) {}

func children(pid int) ([]int, error) {
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, nil // pgrep exits 1 when there are none
	}
	if err != nil {
		return nil, fmt.Errorf("list the children of %d: %w", pid, err)
	}
	var pids []int
	for _, f := range strings.Fields(string(out)) {
		if child, err := strconv.Atoi(f); err == nil {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// isPostgres cannot tell here, and unknown counts as yes.
func isPostgres(int) bool { return true }
