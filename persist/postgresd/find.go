package postgresd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// majorMin is the oldest PostgreSQL that the migrations are tested on.
const majorMin = 15

// ErrNotInstalled says that no usable PostgreSQL was found.
var ErrNotInstalled = errors.New("PostgreSQL 15 or newer not found")

// Binaries is one installation of PostgreSQL.
type Binaries struct {
	Dir   string
	Major int
}

func (b Binaries) path(name string) string { return filepath.Join(b.Dir, name) }

// Find returns the installation on PATH if it is new enough, else the newest in the places where Debian, Red Hat
// and Homebrew put it; these distributions keep the server out of PATH.
func Find(ctx context.Context) (Binaries, error) {
	if p, err := exec.LookPath("postgres"); err == nil {
		if b, ok := inspect(ctx, filepath.Dir(p)); ok {
			return b, nil
		}
	}
	var found []Binaries
	for _, pattern := range [...]string{
		"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                   // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
	} {
		dirs, _ := filepath.Glob(pattern) // the only error is a malformed pattern
		for _, dir := range dirs {
			if b, ok := inspect(ctx, dir); ok {
				found = append(found, b)
			}
		}
	}
	if len(found) == 0 {
		return Binaries{}, fmt.Errorf("%w on PATH, /usr/lib/postgresql, /usr/pgsql-* or Homebrew's folders: "+
			"install it with `apt-get install postgresql` or `brew install postgresql@17`", ErrNotInstalled)
	}
	return slices.MaxFunc(found, func(a, b Binaries) int { return a.Major - b.Major }), nil
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect reports the installation in dir. A client-only package has no initdb and does not count.
func inspect(ctx context.Context, dir string) (Binaries, bool) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, false
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, false
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return Binaries{}, false
	}
	major, err := strconv.Atoi(string(m[1]))
	return Binaries{Dir: dir, Major: major}, err == nil && major >= majorMin
}
