package postgresd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// identity is as whom the server's processes run. Postgres refuses to run as root, so root either enters a user
// namespace, where it has another number but owns the same files, or becomes an unprivileged user.
type identity struct {
	namespace bool
	uid, gid  int // of the unprivileged user; -1 when nothing has to change
}

// namespaceID is root's number inside the namespace; any but 0 will do.
const namespaceID = 1000

// placement chooses an identity and a directory that goes with it. Inside a namespace root has no power over
// other users' directories, so a project in somebody's home may be out of reach; the unprivileged user cannot
// enter root's home either. The data then goes to a directory of its own under elsewhere.
func placement(ctx context.Context, bin Binaries, dir, elsewhere string) (identity, string, error) {
	self := identity{uid: -1, gid: -1}
	if os.Geteuid() != 0 {
		return self, dir, nil
	}
	inside := identity{namespace: true, uid: -1, gid: -1}
	if inside.canRun(ctx, bin, dir) == nil {
		return inside, dir, nil
	}
	if err := os.MkdirAll(elsewhere, 0o755); err != nil { //nolint:gosec // the unprivileged user must pass through it
		return self, "", fmt.Errorf("make a data directory outside %s: %w", dir, err)
	}
	if inside.canRun(ctx, bin, elsewhere) == nil {
		return inside, elsewhere, nil
	}
	for _, name := range [...]string{"postgres", "nobody"} {
		id, err := lookup(name)
		if err == nil && id.canRun(ctx, bin, "/") == nil {
			return id, elsewhere, nil
		}
	}
	return self, "", fmt.Errorf("PostgreSQL does not run as root, user namespaces are barred here, and there is no "+
		"user postgres or nobody to become: run as an ordinary user (data would be in %s)", dir)
}

func lookup(name string) (identity, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return identity{}, fmt.Errorf("look up user %s: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return identity{}, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return identity{}, fmt.Errorf("user %s: %w", name, err)
	}
	return identity{uid: uid, gid: gid}, nil
}

// canRun tries the binary under this identity with dir as its working directory: one attempt answers whether
// namespaces are allowed, whether the binary can be reached and whether the data can.
func (id identity) canRun(ctx context.Context, bin Binaries, dir string) error {
	cmd := exec.CommandContext(ctx, bin.path("initdb"), "--version")
	cmd.Dir = dir
	cmd.SysProcAttr = id.sysProcAttr()
	return cmd.Run()
}

// sysProcAttr also puts the server into a process group of its own: Ctrl-C in a terminal must reach the program,
// which stops Postgres last, and not Postgres first.
func (id identity) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if id.uid >= 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid)}
	}
	if id.namespace {
		enterNamespace(attr)
	}
	dieWithParent(attr)
	return attr
}

// own hands a directory to the identity.
func (id identity) own(dir string) error {
	if id.uid < 0 {
		return nil
	}
	return os.Chown(dir, id.uid, id.gid)
}
