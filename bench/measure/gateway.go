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
	for _, g := range gateways {
		if err := g.read(ctx, sum); err != nil {
			return nil, fmt.Errorf("measure: metrics of %s: %w", g.Control, err)
		}
	}
	return sum, nil
}

// Since is what was counted after before.
func (m Metrics) Since(before Metrics) Metrics {
	out := Metrics{}
	for name, v := range m {
		out[name] = v - before[name]
	}
	return out
}

func (g Gateway) read(ctx context.Context, sum Metrics) error {
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
	return parseMetrics(io.LimitReader(resp.Body, scrapeMax), sum)
}

// parseMetrics adds the text exposition's series to sum. A series is NAME{LABELS} VALUE.
func parseMetrics(r io.Reader, sum Metrics) error {
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
		sum[name] += value
	}
	return lines.Err()
}
