package report

import (
	"fmt"
	"strconv"

	"creditgate/bench/result"
)

// masterColours are how many masters the page can tell apart.
const masterColours = 3

// clustering is one set-up of a Redis Cluster as it was asked.
type clustering struct{ masters, clients int }

func (k clustering) String() string {
	if k.masters == 1 {
		return fmt.Sprintf("1 master, %d clients", k.clients)
	}
	return fmt.Sprintf("%d masters, %d clients", k.masters, k.clients)
}

// clusterings are those that were measured, with their rounds.
func clusterings(c cells) (keys []clustering, rows []cells) {
	for _, clients := range values(c, clientsOf) {
		for _, masters := range values(c.clients(clients), mastersOf) {
			keys = append(keys, clustering{masters, clients})
			rows = append(rows, c.clients(clients).where(func(r result.Row) bool { return r.Masters == masters }))
		}
	}
	return keys, rows
}

// ofMaster is a figure of one master over the rounds.
func (c cells) ofMaster(i int, value func(result.Master) float64) figure {
	return c.where(func(r result.Row) bool { return i < len(r.Cluster) }).
		of(func(r result.Row) float64 { return value(r.Cluster[i]) })
}

func clusterPlot(c cells) *plot {
	keys, rows := clusterings(c)
	most := 0
	for _, k := range keys {
		most = max(most, k.masters)
	}
	bars := make([]bar, len(keys))
	for n, k := range keys {
		bars[n].name = k.String()
		for i := range most {
			f := rows[n].ofMaster(i, func(m result.Master) float64 { return m.CPU })
			bars[n].parts = append(bars[n].parts, part{
				"master " + strconv.Itoa(i+1), "m-" + strconv.Itoa(i%masterColours+1), f.mid,
			})
		}
	}
	return drawBars("Redis Cluster: where a request's Redis CPU goes",
		"Metered, four partitions for each master. In a Cluster a call serves one partition, so that the same requests fall "+
			"into more and smaller calls when there are more.", "µs of Redis CPU per request", bars)
}

// clusterTable has a row for each Cluster and one for each of its masters. A master's figures are per request that it
// served.
func clusterTable(c cells) table {
	t := table{
		Title: "Redis Cluster: what each master did",
		Head: []string{
			"cluster", "requests/s", "partitions", "of the requests, %", "of Redis' CPU, %", "Redis µs", "commands", "calls",
			"error replies", "gateway µs",
		},
	}
	keys, rows := clusterings(c)
	for n, k := range keys {
		at := rows[n]
		cpu := at.of(redisCPU)
		t.Rows = append(t.Rows, []string{
			k.String(), at.of(throughput).text(""), some(at.of(func(r result.Row) float64 { return float64(r.Partitions) })),
			"100", "100", some(cpu), some(at.of(func(r result.Row) float64 { return r.Redis.Commands })),
			some(at.of(callsOf)), number(at.of(func(r result.Row) float64 { return r.Redis.Errors * float64(r.Requests) }).mid),
			some(at.of(func(r result.Row) float64 { return r.CPU["gateway"] })),
		})
		for i := range k.masters {
			own := func(value func(result.Master) float64) string {
				return some(at.ofMaster(i, func(m result.Master) float64 { return ratio(value(m), m.Share) }))
			}
			t.Rows = append(t.Rows, []string{
				"· master " + strconv.Itoa(i+1), "",
				some(at.ofMaster(i, func(m result.Master) float64 { return float64(m.Partitions) })),
				some(at.ofMaster(i, func(m result.Master) float64 { return 100 * m.Share })),
				some(at.ofMaster(i, func(m result.Master) float64 { return 100 * ratio(m.CPU, cpu.mid) })),
				own(func(m result.Master) float64 { return m.CPU }),
				own(func(m result.Master) float64 { return m.Redis.Commands }),
				own(func(m result.Master) float64 { return m.Redis.Calls }), "", "",
			})
		}
	}
	return t
}

func callsOf(r result.Row) float64 { return r.Redis.Calls }
