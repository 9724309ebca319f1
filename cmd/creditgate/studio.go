package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"creditgate/bench/studio"
)

// studioStop bounds how long pictures that are being made may take when the studio is told to end.
const studioStop = 5 * time.Second

func (a *app) studioCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "studio",
		Short: "Run the stand-in image backend",
		Long: "Run the stand-in image backend: POST /studio/apply, /studio/revert, /studio/report, /v1/images/generations and\n" +
			"/3d/…. It does real image work, and fails when a request's X-Studio-Latency, -Fail-Rate, -Fail-Items, -Hang or\n" +
			"-Reset asks for it. It knows nothing of credits: do not expose it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.studio(cmd.Context(), addr) },
	}
	cmd.Flags().StringVar(&addr, "listen", "127.0.0.1:9000", "address to listen on")
	return cmd
}

func (a *app) studio(ctx context.Context, addr string) error {
	log, err := defaultConfig().logger(a.err)
	if err != nil {
		return err
	}
	l, err := listen(ctx, "listen", addr)
	if err != nil {
		return err
	}
	s := studio.New(studio.Options{Log: log})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	log.Info().Stringer("addr", l.Addr()).Msg("studio is listening")
	select {
	case err := <-served:
		return fmt.Errorf("studio: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), studioStop)
	defer cancel()
	return s.Shutdown(stop)
}
