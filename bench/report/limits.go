package report

import (
	"fmt"
	"math"

	"creditgate/bench/result"
)

// evenEnough is how much more than its part the fullest master may have for the partitions to count as even.
const evenEnough = 1.1

// clusterText says how evenly the partitions lay in the largest Cluster, where they did not, and whether calls failed.
func clusterText(c cells) (out []string) {
	failed := 0.0
	var largest result.Row
	var fullest result.Master
	for _, r := range c {
		failed += r.Redis.Errors * float64(r.Requests)
		if len(r.Cluster) > len(largest.Cluster) {
			largest = r
		}
	}
	for _, m := range largest.Cluster {
		if m.Share > fullest.Share {
			fullest = m
		}
	}
	n := len(largest.Cluster)
	if n == 0 {
		return nil
	}
	if fullest.Share*float64(n) > evenEnough {
		out = append(out, fmt.Sprintf("A partition lies where the hash of its name falls, and a few partitions do not fall evenly. "+
			"With %d masters and equal ranges of slots, the fullest had %d of %d partitions and %s %% of the requests, so that this "+
			"Cluster takes at most %s times what one master does, and not %d times. Moving slots mends it (redis-cli --cluster reshard).",
			n, fullest.Partitions, largest.Partitions, number(100*fullest.Share), number(1/fullest.Share), n))
	}
	if failed > 0 {
		return append(out, fmt.Sprintf("%s replies of Redis Clusters were errors; a call that spans slots would be one.",
			number(math.Round(failed))))
	}
	return append(out, "No reply of a Cluster was an error, so no call spanned slots.")
}

// hotSection is about one account that everybody uses: what it takes at most, and what its owner can do.
func hotSection(c cells) *section {
	best, at := figure{}, 0
	for _, n := range values(c, clientsOf) {
		if f := c.clients(n).of(throughput); f.mid > best.mid {
			best, at = f, n
		}
	}
	if at == 0 {
		return nil
	}
	redis := c.clients(at).of(redisCPU).mid
	used := redis * best.mid / microsPerCore
	s := &section{Title: "One hot account"}
	measured := fmt.Sprintf("One account took %s requests/s, from %d clients, at %s µs of Redis each, on a machine that everything "+
		"shared.", number(best.mid), at, number(redis))
	if used < useMax {
		measured += fmt.Sprintf(" Redis was busy for %s %% of a core then: the machine was the limit, not the account. "+
			"Redis with a core of its own, used for %.0f %%, would take about %s requests/s for it.", number(100*used), 100*useMax,
			about(ratio(useMax*microsPerCore, redis)))
	} else {
		measured += fmt.Sprintf(" Redis was busy for %s %% of a core then, so this is about what one account can have.",
			number(100*used))
	}
	s.Text = []string{
		measured,
		"An account is one value in one partition, on one master, and a master runs one command at a time. More gateways, " +
			"partitions or masters do nothing for it.",
		"An owner can split it: an account for each team or project. They fall into different partitions, so that k of them take " +
			"up to k times as much, as far as there are masters. The price: credit is granted to each, one may be empty while " +
			"another is not, and two may fall into the same partition.",
		"An owner can ask less often: one reservation for many small calls (POST /v1/reservations, and one commit of their sum) " +
			"divides the load by their number. The price: the estimate is held meanwhile, and nobody else can spend it.",
	}
	return s
}
