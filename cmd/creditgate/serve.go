package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"creditgate/meter/policy"
)

func (a *app) serveCommand() *cobra.Command {
	return a.configured(&cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: "Run the gateway: data plane, control plane, sweeper and flusher.\n\n" +
			"Each setting may stand in the file, in a CREDITGATE_* variable or in a flag; the later win. SIGTERM ends it\n" +
			"in order, a second SIGTERM at once. SIGHUP reads this gateway's policy files again, POST /v1/policy/reload those of\n" +
			"every gateway; with a mistake in one of them, the old ones stay in force, and the log has it.\n\n" +
			"Go's own GOGC and GOMEMLIMIT are obeyed. With neither set, garbage is collected at 64 MiB more than Go's\n" +
			"default would have it.",
		Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, c *config, _ []string) error {
		return a.serve(cmd.Context(), c)
	})
}

func (a *app) serve(ctx context.Context, c *config) error {
	if err := c.require("redis_url", "postgres_url", "policy", "upstream", "admin_token"); err != nil {
		return err
	}
	log, err := c.logger(a.err)
	if err != nil {
		return err
	}
	policies, err := loadPolicies(c.Policy)
	if err != nil {
		return err
	}
	data, err := listen(ctx, "listen", c.Listen)
	if err != nil {
		return err
	}
	defer data.Close()
	control, err := listen(ctx, "admin_listen", c.AdminListen)
	if err != nil {
		return err
	}
	defer control.Close()
	n, err := newNode(ctx, c, gatewayName(control.Addr()), policy.NewCatalog(policies), log)
	if err != nil {
		return err
	}
	for name, p := range policies {
		log.Info().Str("product", name).Str("version", p.Version()).Msg("policy")
		for _, w := range p.Warnings {
			log.Warn().Str("product", name).Msg(w.String())
		}
	}
	log.Info().Stringer("data", data.Addr()).Stringer("control", control.Addr()).Strs("upstream", c.Gateway.Upstreams).
		Str("version", version()).Msg("listening")
	defer runtime.KeepAlive(raiseHeap(a.environ))
	return n.run(ctx, data, control)
}

// gatewayName is what other gateways, and people, call this one: its host, and the port of its control plane.
func gatewayName(control net.Addr) string {
	host, err := os.Hostname()
	_, port, bad := net.SplitHostPort(control.String())
	if err != nil || bad != nil {
		return control.String()
	}
	return net.JoinHostPort(host, port)
}

// listen opens a listener; setting names the address in the message, since an address taken is the usual mistake.
func listen(ctx context.Context, setting, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is taken by another program; stop it, or set %s to another address", setting, addr, setting)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return l, nil
}
