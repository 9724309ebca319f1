package stage

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"

	"creditgate/persist"
	"creditgate/persist/postgresd"
)

// writerLogin is what gateways connect to Postgres as.
const writerLogin = "creditgate"

// connections is what Postgres takes: each gateway has one for each partition, of which there are up to 256, and those
// that requests need; pgrow has a pool of its own.
const connections = 1000

// Hall is what all stages of a run share: the programs, a directory, and a PostgreSQL with a database for each stage.
// Postgres syncs its disk, as it does in production.
type Hall struct {
	self       string // the bench's own program, for targets and load
	creditgate string
	dir        string
	postgres   *postgresd.Server
	stages     int
}

// Programs are the paths of what is measured with, and of what is measured.
type Programs struct{ Self, Creditgate string }

// Open starts the PostgreSQL. dir holds everything that the run writes, except for its results.
func Open(ctx context.Context, dir string, p Programs) (*Hall, error) {
	server, err := postgresd.Start(ctx, postgresd.Options{
		Dir: filepath.Join(dir, "postgres"), Fresh: true, Connections: connections,
	})
	if err != nil {
		return nil, err
	}
	return &Hall{self: p.Self, creditgate: p.Creditgate, dir: dir, postgres: server}, nil
}

// Self is the path of the bench's own program.
func (h *Hall) Self() string { return h.self }

// Close stops the PostgreSQL.
func (h *Hall) Close() error { return h.postgres.Close() }

// database makes an empty database of our schema for the stage that starts now.
func (h *Hall) database(ctx context.Context) (owner, writer string, err error) {
	owner, err = h.empty(ctx, fmt.Sprintf("stage_%d", h.stages))
	if err != nil {
		return "", "", err
	}
	if err := persist.Migrate(ctx, owner); err != nil {
		return "", "", err
	}
	if err := persist.EnsureLogin(ctx, owner, writerLogin, persist.WriterRole); err != nil {
		return "", "", err
	}
	u, err := url.Parse(owner)
	if err != nil {
		return "", "", fmt.Errorf("URL of a database: %w", err)
	}
	u.User = url.User(writerLogin)
	return owner, u.String(), nil
}

// empty makes a database with nothing in it.
func (h *Hall) empty(ctx context.Context, name string) (string, error) {
	return h.postgres.URL(name), h.postgres.CreateDatabase(ctx, name)
}
