package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// devJSON is .creditgate/dev.json: what scripts need to know of a run.
type devJSON struct {
	DataURL     string            `json:"data_url"`
	AdminURL    string            `json:"admin_url"`
	AdminToken  string            `json:"admin_token"`
	RedisURL    string            `json:"redis_url"`
	PostgresURL string            `json:"postgres_url"` // as the owner: it may read everything
	UpstreamURL string            `json:"upstream_url"`
	Policy      string            `json:"policy"`
	PIDs        devPIDs           `json:"pids"`
	Keys        map[string]string `json:"keys"` // by account
}

type devPIDs struct {
	Gateway  int `json:"gateway"`
	Redis    int `json:"redis"`
	Postgres int `json:"postgres"`
	Backend  int `json:"backend"`
}

// writeJSON replaces dev.json whole, so that nobody reads half of it.
func (d *dev) writeJSON() error {
	d.telling.Lock()
	defer d.telling.Unlock()
	keys := map[string]string{}
	for _, a := range devAccounts() {
		keys[a.name] = a.key
	}
	b, err := json.MarshalIndent(devJSON{
		DataURL: d.dataURL(), AdminURL: d.adminURL(), AdminToken: d.dir.token, RedisURL: d.redis.URL(),
		PostgresURL: d.postgres.ownerURL(), UpstreamURL: "http://" + d.backendAddr, Policy: d.options.policy,
		PIDs: devPIDs{Gateway: d.gateway.pid(), Redis: d.redis.pid(), Postgres: d.postgres.pid(), Backend: d.backend.pid()},
		Keys: keys,
	}, "", "  ")
	if err != nil {
		return err
	}
	path := d.dir.path("dev.json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// printWelcome says where everything is, and gives lines to paste.
func (d *dev) printWelcome(took time.Duration) {
	var b strings.Builder
	p := func(format string, a ...any) { _, _ = fmt.Fprintf(&b, format+"\n", a...) }
	p("creditgate is running (ready in %.1f s). Ctrl-C stops everything; data stays in %s.", took.Seconds(), d.options.dir)
	p("")
	p("  data plane     %s", d.dataURL())
	p("  control plane  %s   token %s", d.adminURL(), d.dir.token)
	p("  backend        http://%s   stand-in studio, log %s", d.backendAddr, d.dir.shown("backend.log"))
	p("  redis          %s", d.redis.URL())
	p("  postgres       %s", d.postgres.ownerURL())
	p("  policy         %s", d.options.policy)
	p("  gateway log    %s", d.dir.shown("gateway.log"))
	p("")
	for _, l := range d.curlLines() {
		p("# %s\n%s\n", l.says, l.line)
	}
	_, _ = fmt.Fprint(d.app.out, b.String()) // at once, so that whoever reads the first line has all of them
}

// curlLine is something to paste.
type curlLine struct{ says, line string }

// curlLines are requests that the policy prices, then what accounts and operators ask.
func (d *dev) curlLines() []curlLine {
	auth := func(key string) string { return "-H 'Authorization: Bearer " + key + "'" }
	plus, empty, admin := auth("sk-demo-plus"), auth("sk-demo-empty"), auth(d.dir.token)
	const json = "-H 'Content-Type: application/json'"
	var lines []curlLine
	add := func(says string, words ...string) {
		lines = append(lines, curlLine{says, "curl -sS " + strings.Join(words, " ")})
	}
	product := d.products[0]
	priced := func(path string) bool {
		op, _, ok := product.Match("POST", path)
		return ok && !op.Free()
	}
	if url := d.dataURL() + "/v1/images/generations"; priced("/v1/images/generations") {
		body := `-d '{"prompt": "a red bicycle", "n": 1, "size": "256x256"}'`
		add("a picture; what it cost stands in the X-Credits-* headers",
			"-D - -o picture.json", plus, json, body, url)
		add("an account without credit: 402, and what is missing", "-i", empty, json, body, url)
		add("a backend that fails: its 500, and nothing charged", "-i", plus, json, "-H 'X-Studio-Fail-Rate: 1'", body, url)
	}
	if url := d.dataURL() + "/studio/apply"; priced("/studio/apply") {
		body := "-d @" + d.dir.path("samples/apply.json")
		add("three photos before a new background", "-D - -o photos.json", plus, json, body, url)
		add("one of them fails, and is not charged", "-D - -o photos.json", plus, json, "-H 'X-Studio-Fail-Items: 1'", body, url)
	}
	if url := d.dataURL() + "/3d/generations"; priced("/3d/generations") {
		add("a mesh", "-D - -o mesh.json", plus, json, `-d '{"model": "turbo", "prompt": "a red bicycle"}'`, url)
	}
	add("what is left", plus, d.dataURL()+"/credits/balance")
	add("for operators: add credit", "-X POST", admin, json,
		fmt.Sprintf(`-d '{"bucket": %q, "credits": 10, "external_ref": "pasted-1", "reason": "curl"}'`,
			product.Buckets[len(product.Buckets)-1]), d.adminURL()+"/v1/accounts/demo-empty/grants")
	add("for operators: what was booked", admin, "'"+d.adminURL()+"/v1/accounts/demo-plus/entries?limit=5'")
	if psql := d.postgres.Psql(); psql != "" {
		lines = append(lines, curlLine{
			"for finance: the same in SQL",
			fmt.Sprintf("%s '%s' -c 'TABLE finance.balances'", psql, d.postgres.ownerURL()),
		})
	}
	return lines
}
