package persist

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter/outage"
)

// Watch adds Postgres to the servers whose outages w counts. The caller runs the server. It comes before anything
// is made of the store.
func (s *Store) Watch(w *outage.Watch, reg prometheus.Registerer, log zerolog.Logger) *outage.Server {
	s.outages = w
	p := &probe{config: s.pool.Config().ConnConfig}
	server := w.Add(outage.Options{
		Name: "Postgres", Means: "what Redis has loaded is served, changes get 503, and the ledger waits in Redis",
		Is: ErrUnavailable, Check: p.check, Log: log,
	})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditgate_postgres_up", Help: "1 while Postgres answers and can be written, else 0; /readyz says why.",
	}, server.Value))
	return server
}

// probe asks Postgres on a connection of its own, since those of the pool may all be busy.
type probe struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn // nil: to be made
}

func (p *probe) check(ctx context.Context) (err error) {
	if p.conn == nil {
		if p.conn, err = pgx.ConnectConfig(ctx, p.config); err != nil {
			p.conn = nil
			return err
		}
	}
	var readOnly bool
	err = p.conn.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::boolean`).Scan(&readOnly)
	switch {
	case err != nil:
		_ = p.conn.Close(ctx) // ends at once when the time of the check is over
		p.conn = nil
		return err
	case readOnly:
		return errors.New("it is read-only")
	}
	return nil
}
