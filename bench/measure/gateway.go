package measure

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// scrapeMax bounds what is read of one gateway's metrics; 256 partitions make some 100 KB.
const scrapeMax = 8 << 20

// Gateway is one process of creditgate as its control plane shows it.
type Gateway struct {
	Control string // URL of the control plane
	Token   string
}

// Metrics are series by name, summed over their labels and over all gateways asked.
type Metrics map[string]float64

// ReadMetrics asks each gateway once.
func ReadMetrics(ctx context.Context, gateways []Gateway) (Metrics, error) {
	sum := Metrics{}
	err := each(ctx, gateways, func(name string, value float64) { sum[name] += value })
	return sum, err
}

// Largest is the largest value that a series has, under any labels and of any gateway.
func Largest(ctx context.Context, gateways []Gateway, series string) (largest float64, err error) {
	err = each(ctx, gateways, func(name string, value float64) {
		if name == series {
			largest = max(largest, value)
		}
	})
	return largest, err
}

// each asks each gateway once and shows fn every series.
func each(ctx context.Context, gateways []Gateway, fn func(name string, value float64)) error {
	for _, g := range gateways {
		if err := g.read(ctx, fn); err != nil {
			return fmt.Errorf("measure: metrics of %s: %w", g.Control, err)
		}
	}
	return nil
}

// Since is what was counted after before.
func (m Metrics) Since(before Metrics) Metrics {
	out := Metrics{}
	for name, v := range m {
		out[name] = v - before[name]
	}
	return out
}

func (g Gateway) read(ctx context.Context, fn func(name string, value float64)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.Control+"/metrics", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return parseMetrics(io.LimitReader(resp.Body, scrapeMax), fn)
}

// parseMetrics shows fn the series of a text exposition. A series is NAME{LABELS} VALUE.
func parseMetrics(r io.Reader, fn func(name string, value float64)) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		if space < 0 {
			return fmt.Errorf("no value in %q", line)
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		name, _, _ := strings.Cut(line[:space], "{")
		fn(name, value)
	}
	return lines.Err()
}
