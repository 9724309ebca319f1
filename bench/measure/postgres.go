package measure

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Postgres is the counters of one database. A session adds to them once a second at most, so that they lag by about as
// much at either end of a cell.
type Postgres struct {
	Inserted float64 // rows
	Updated  float64
	WALBytes float64 // of the whole server: what is written ahead, for a crash and for replicas
}

// PostgresReader reads them over a connection of its own.
type PostgresReader struct{ conn *pgx.Conn }

// NewPostgresReader connects to a database.
func NewPostgresReader(ctx context.Context, url string) (*PostgresReader, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("measure: Postgres: %w", err)
	}
	return &PostgresReader{conn}, nil
}

// Read reads the counters.
func (r *PostgresReader) Read(ctx context.Context) (p Postgres, err error) {
	err = r.conn.QueryRow(ctx, `
SELECT tup_inserted::float8, tup_updated::float8, (pg_current_wal_insert_lsn() - '0/0')::float8
FROM pg_stat_database WHERE datname = current_database()`).Scan(&p.Inserted, &p.Updated, &p.WALBytes)
	if err != nil {
		return Postgres{}, fmt.Errorf("measure: Postgres: %w", err)
	}
	return p, nil
}

// Since is what was counted after before.
func (p Postgres) Since(before Postgres) Postgres {
	return Postgres{
		Inserted: p.Inserted - before.Inserted, Updated: p.Updated - before.Updated, WALBytes: p.WALBytes - before.WALBytes,
	}
}

// Close closes the connection.
func (r *PostgresReader) Close() error { return r.conn.Close(context.Background()) }
