package rivals

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"creditgate/bench/cast"
)

//go:embed nginx.conf.tmpl
var nginxConf string

//go:embed nginx.lua
var nginxLua string

// Bounds of nginx. Its workers share the connections; each needs a descriptor.
const (
	nginxConnections = 16 << 10
	nginxFiles       = 20_000
	nginxIdleConns   = 4 << 10 // kept towards the backend, by worker
	nginxReadyMax    = 30 * time.Second
	nginxReadyPoll   = 10 * time.Millisecond
	nginxStopMax     = 5 * time.Second
	nginxLogTailMax  = 2 << 10
)

// ErrNotHere says that a target's programs are not installed, and which packages they are in.
var ErrNotHere = errors.New("not here")

// nginxPrograms are where the parts of nginx are on this machine.
type nginxPrograms struct{ nginx, modules, lua string }

// Available is nil where the target's programs are installed, and an ErrNotHere otherwise. All but nginx are built in.
func Available(name string) error {
	if name != "nginx" {
		return nil
	}
	_, err := findNginx("/")
	return err
}

// findNginx looks below root, which is other than / in tests only.
func findNginx(root string) (p nginxPrograms, err error) {
	first := func(file string, dirs ...string) string {
		for _, dir := range dirs {
			dir = filepath.Join(root, dir)
			if info, err := os.Stat(filepath.Join(dir, file)); err == nil && !info.IsDir() {
				return dir
			}
		}
		return ""
	}
	p.modules = first("ngx_http_lua_module.so", "/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")
	p.lua = first("nginx/redis.lua", "/usr/share/lua/5.1", "/usr/local/share/lua/5.1")
	if dir := first("nginx", "/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"); dir != "" {
		p.nginx = filepath.Join(dir, "nginx")
	}
	var missing []string
	for _, part := range []struct{ found, pkg string }{
		{p.nginx, "nginx"}, {p.modules, "libnginx-mod-http-lua"}, {p.lua, "lua-nginx-redis"},
	} {
		if part.found == "" {
			missing = append(missing, part.pkg)
		}
	}
	if missing != nil {
		return p, fmt.Errorf("nginx with Lua is %w: apt-get install %s", ErrNotHere, strings.Join(missing, " "))
	}
	return p, nil
}

// runNginx serves until ctx ends.
func runNginx(ctx context.Context, o *options, stdout io.Writer) error {
	programs, err := findNginx("/")
	if err != nil {
		return err
	}
	addr, err := o.configureNginx(ctx, programs)
	if err != nil {
		return err
	}
	p, err := startNginx(programs.nginx, o.dir)
	if err != nil {
		return err
	}
	if err := p.await(ctx, addr); err != nil {
		return errors.Join(err, p.stop())
	}
	fmt.Fprintln(stdout, "ready", addr)
	select {
	case <-p.exited:
		return p.diagnose(errors.New("nginx ended by itself"))
	case <-ctx.Done():
		return p.stop()
	}
}

// configureNginx writes what nginx reads into the target's directory, after the accounts are in Redis.
func (o *options) configureNginx(ctx context.Context, programs nginxPrograms) (addr string, err error) {
	client, err := dialRedis(o.redis)
	if err != nil {
		return "", err
	}
	defer client.Close() //nolint:errcheck // everything sent was answered
	sums, err := prepareRedis(ctx, client, o)
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(client.Options().Addr)
	if err != nil {
		return "", fmt.Errorf("-redis: %w", err)
	}
	if addr, err = freeAddr(ctx, o.listen); err != nil {
		return "", fmt.Errorf("-listen: %w", err)
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return "", fmt.Errorf("-dir: %w", err)
	}
	conf, err := template.New("nginx.conf").Parse(nginxConf)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = conf.Execute(&text, map[string]any{
		"Modules": programs.modules, "LuaPath": programs.lua, "Root": os.Geteuid() == 0, "Dir": o.dir,
		"Files": nginxFiles, "Connections": nginxConnections, "Idle": nginxIdleConns, "BodyMax": requestMax,
		"Listen": addr, "Backend": o.backend, "RedisHost": host, "RedisPort": port, "Price": price,
		"Accounts": o.accounts, "KeyPrefix": cast.KeyPrefix, "Reserve": sums.reserve, "Settle": sums.settle,
	})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return "", fmt.Errorf("-dir: %w", err)
	}
	for name, content := range map[string]string{
		"nginx.conf": text.String(), "meter.lua": nginxLua, "reserve.lua": reserveScript, "settle.lua": settleScript,
	} {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(content), 0o600); err != nil {
			return "", fmt.Errorf("-dir: %w", err)
		}
	}
	return addr, nil
}

// freeAddr resolves port 0, which nginx cannot. Another process may be quicker; nginx then says so and ends.
func freeAddr(ctx context.Context, listen string) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// nginxProcess is a running nginx.
type nginxProcess struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

func startNginx(program, dir string) (*nginxProcess, error) {
	log := filepath.Join(dir, "error.log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("-dir: %w", err)
	}
	defer out.Close() //nolint:errcheck // written by the child only
	p := &nginxProcess{log: log, exited: make(chan struct{})}
	p.cmd = exec.Command(program, "-p", dir, "-c", "nginx.conf", "-e", log) //nolint:noctx // stop ends it, in order
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = childAttr()
	started := make(chan error)
	go p.live(started)
	return p, <-started
}
