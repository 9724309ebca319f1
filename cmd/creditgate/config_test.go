package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// loaded is what a command line, an environment and a file make of the settings.
func loaded(t *testing.T, file string, environ []string, args ...string) (*config, error) {
	t.Helper()
	if file != "" {
		args = append(args, "--config", write(t, "creditgate.yaml", file))
	}
	c := defaultConfig()
	cmd := &cobra.Command{}
	c.addFlags(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	return c, c.load(cmd.Flags(), environ)
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestFlagsWinOverVariablesOverFile(t *testing.T) {
	t.Parallel()
	file := "listen: :1\nadmin_listen: :1\nupstream_timeout: 1s\nupstream: [http://a:1, http://b:2]\nrequest_body_max: 64KiB\n"
	c, err := loaded(t, file, []string{"CREDITGATE_LISTEN=:2", "CREDITGATE_ADMIN_LISTEN=:2", "HOME=/"}, "--listen", ":3")
	require.NoError(t, err)
	require.Equal(t, ":3", c.Listen)
	require.Equal(t, ":2", c.AdminListen)
	require.Equal(t, time.Second, c.Gateway.UpstreamTimeout)
	require.Equal(t, []string{"http://a:1", "http://b:2"}, c.Gateway.Upstreams)
	require.Equal(t, 64<<10, c.Gateway.RequestBodyMax)
	require.Equal(t, 5*time.Second, c.Gateway.LeaseMargin, "a default")
}

func TestConfigFileFromTheEnvironment(t *testing.T) {
	t.Parallel()
	path := write(t, "creditgate.yaml", "log_level: debug\n")
	c, err := loaded(t, "", []string{"CREDITGATE_CONFIG=" + path})
	require.NoError(t, err)
	require.Equal(t, "debug", c.LogLevel)
}

// Every mistake is named with its place and the way out, all at once.
func TestBrokenConfigIsExplained(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"several at once": {
			file: "listen: :8080\nupsream: http://127.0.0.1:9000\nupstream_timeout: sixty\nlisten: :8081\npartitions: [4]\n" +
				"policy:\nadmin_token: {a: b}\nbreaker_ratio: 2\n",
			want: `FILE:2:1: upsream: there is no such setting; did you mean upstream?
FILE:3:19: upstream_timeout: "sixty" must be a duration with its unit, such as 500ms, 60s or 15m
FILE:4:1: listen: is set in line 1 already; keep one of the two
FILE:5:13: partitions: takes one value, not a list
FILE:6:8: policy: has no value; give one or remove the line
FILE:7:14: admin_token: takes one value, not a mapping
FILE:8:16: breaker_ratio: "2" must be a number above 0 and at most 1, such as 0.5`,
		},
		"not YAML": {
			file: "listen: :8080\n\tpolicy: x\n",
			want: `FILE:2:1: is not YAML: found character '	' that cannot start any token`,
		},
		"not settings": {
			file: "- listen\n",
			want: `FILE:1:1: must be a list of name: value, such as listen: :8080`,
		},
		"unknown variable": {
			environ: []string{"CREDITGATE_REDIS_ULR=redis://localhost", "CREDITGATE_COLOUR=red"},
			want: `CREDITGATE_COLOUR: there is no such setting; see creditgate serve --help for all
CREDITGATE_REDIS_ULR: there is no such setting; did you mean CREDITGATE_REDIS_URL?`,
		},
		"bad variables": {
			environ: []string{"CREDITGATE_PARTITIONS=0", "CREDITGATE_REQUEST_BODY_MAX=32 megabytes", "CREDITGATE_LOG_LEVEL=loud"},
			want: `CREDITGATE_REQUEST_BODY_MAX: "32 megabytes" must be a size above 0 and of at most 1GiB, such as 32MiB, 64KiB or 1048576
CREDITGATE_PARTITIONS: "0" must be a whole number from 1 to 256
CREDITGATE_LOG_LEVEL: "loud" must be one of debug, info, warn, error`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := ""
			if c.file != "" {
				path = write(t, "creditgate.yaml", c.file)
				c.environ = append(c.environ, "CREDITGATE_CONFIG="+path)
			}
			_, err := loaded(t, "", c.environ)
			require.Error(t, err)
			got := err.Error()
			if path != "" {
				got = strings.ReplaceAll(got, path, "FILE")
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestMissingSettingsAreNamedTogether(t *testing.T) {
	t.Parallel()
	status, _, said := command(t, nil, "serve")
	require.Equal(t, 1, status)
	for _, name := range []string{"redis_url", "postgres_url", "policy", "upstream", "admin_token"} {
		require.Contains(t, said, name+" is not set")
		require.Contains(t, said, envName(name))
	}
}

// command runs a command line inside the test.
func command(t *testing.T, environ []string, args ...string) (status int, out, said string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{environ: environ, out: &o, err: &e}
	status = a.run(t.Context(), args)
	return status, o.String(), e.String()
}

// A URL with a password may be wrong; the message about it must not show the password.
func TestSecretsStayOutOfMessages(t *testing.T) {
	t.Parallel()
	policy := write(t, "p.yaml", "name: p\nbuckets: [a]\noperations: {x: {match: GET /x, credits: 0}}\n")
	base := []string{
		"CREDITGATE_POLICY=" + policy, "CREDITGATE_UPSTREAM=http://127.0.0.1:1", "CREDITGATE_ADMIN_TOKEN=hunter2-hunter2-hunter2",
		"CREDITGATE_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_LISTEN=127.0.0.1:0", "CREDITGATE_JOURNAL_DIR=" + t.TempDir(),
	}
	for _, urls := range [][3]string{ // and the setting that the message names
		{"redis://:hunter2@host:port/0", "postgres://u:hunter2@127.0.0.1:1/db", "redis_url"},
		{"redis:\x7f//:hunter2@host/0", "postgres://u:hunter2@127.0.0.1:1/db", "redis_url"},
		{"http://:hunter2@host/0", "postgres://u:hunter2@127.0.0.1:1/db", "redis_url"},
		{"redis://127.0.0.1:1/0", "postgres://u:hunter2@127.0.0.1:port/db", "postgres_url"},
		{"redis://127.0.0.1:1/0", "postgres://u:hunter2@127.0.0.1:1/db?sslmode=perhaps", "postgres_url"},
	} {
		status, out, said := command(t, append(base, "CREDITGATE_REDIS_URL="+urls[0], "CREDITGATE_POSTGRES_URL="+urls[1]), "serve")
		require.Equal(t, 1, status)
		require.True(t, strings.HasPrefix(said, "creditgate: "+urls[2]+": "), said)
		require.NotContains(t, out+said, "hunter2")
	}
}

func TestValuesReadWhatTheyShow(t *testing.T) {
	t.Parallel()
	for _, s := range defaultConfig().settings() {
		if s.value.String() != "" { // a setting without a default refuses the empty text
			require.NoError(t, s.value.Set(s.value.String()), s.name)
		}
	}
	c := defaultConfig()
	for text, bytes := range map[string]int{"1": 1, "1500": 1500, "1KiB": 1 << 10, "3 MiB": 3 << 20, "1GiB": 1 << 30} {
		require.NoError(t, size(&c.Gateway.ReplayMax, sizeMax).Set(text), text)
		require.Equal(t, bytes, c.Gateway.ReplayMax)
	}
	for _, bad := range []string{"", "0", "-1", "1.5MiB", "2GiB", "99999999999999999999", "MiB", "1TB"} {
		require.Error(t, size(&c.Gateway.ReplayMax, sizeMax).Set(bad), bad)
	}
}

func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	status, out, _ := command(t, nil, "policy", "check", "../../meter/policy/examples/dev.yaml")
	require.Zero(t, status)
	require.Contains(t, out, "buckets    promo, monthly, purchased (drained in this order)")
	require.Contains(t, out, "POST /v1/images/generations")

	status, out, _ = command(t, nil, "policy", "check", "../../meter/policy/examples")
	require.Zero(t, status)
	require.Equal(t, 4, strings.Count(out, "policy     "))

	path := write(t, "broken.yaml", "name: p\nbuckets: [a]\noperations:\n  x: {match: GET x, credits: -1, unitz: 2}\n")
	status, out, said := command(t, nil, "policy", "check", path)
	require.Equal(t, 1, status)
	require.Empty(t, out)
	for _, want := range []string{":4:14: operations.x.match: ", ":4:30: operations.x.credits: ", ":4:34: operations.x.unitz: unknown key; did you mean units?"} {
		require.Contains(t, said, path+want)
	}
	path = write(t, "equal.yaml", "name: p\nbuckets: [a]\nplans: {q: {packs: [s, l]}}\npacks:\n  s: {bucket: a, credits: 1, price: 1.00 EUR}\n"+
		"  l: {bucket: a, credits: 2, price: 2.00 EUR}\noperations: {x: {match: GET /x, credits: 1}}\n")
	status, out, said = command(t, nil, "policy", "check", path)
	require.Zero(t, status, "a warning")
	require.Contains(t, out, "policy     p, version ")
	require.Equal(t, path+":3:20: plans.q.packs: warning: a credit of l costs 1.00 and one of s 1.00: the larger pack gives no discount; "+
		"write purchases: {volume_discount: required} to have that refused\n", said)

	dir := t.TempDir()
	for _, name := range []string{"a.yaml", "b.yml"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name),
			[]byte("name: p\nbuckets: [a]\noperations: {x: {match: GET /x, credits: 0}}\n"), 0o600))
	}
	status, _, said = command(t, nil, "policy", "check", dir)
	require.Equal(t, 1, status)
	require.Contains(t, said, "b.yml: name: p is the product of "+filepath.Join(dir, "a.yaml")+" already")
}

func TestPolicyDiff(t *testing.T) {
	t.Parallel()
	const examples = "../../meter/policy/examples"
	status, out, said := command(t, nil, "policy", "diff", examples+"/ai-background-studio.yaml", "../../meter/policy/testdata/diff/studio-next.yaml")
	require.Zero(t, status, said)
	want, err := os.ReadFile("../../meter/policy/testdata/diff/studio-next.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), out)

	dir := t.TempDir()
	for _, name := range []string{"dev", "visual-foundry"} {
		src, err := os.ReadFile(filepath.Join(examples, name+".yaml"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".yaml"), src, 0o600))
	}
	status, out, _ = command(t, nil, "policy", "diff", examples, dir)
	require.Zero(t, status)
	require.Contains(t, out, "3d-studio, version ")
	require.Equal(t, 2, strings.Count(out, ", is removed\n"))
	require.Equal(t, 2, strings.Count(out, "No rule changes.\n"))
	_, out, _ = command(t, nil, "policy", "diff", dir, examples)
	require.Equal(t, 2, strings.Count(out, ", is new\n"))

	status, out, said = command(t, nil, "policy", "diff", write(t, "broken.yaml", "name: p\n"), filepath.Join(dir, "none.yaml"))
	require.Equal(t, 1, status)
	require.Empty(t, out)
	require.Contains(t, said, "broken.yaml:1:1: buckets and operations are missing")
	require.Contains(t, said, "none.yaml: no such file")
}

func TestUnknownCommandAndFlag(t *testing.T) {
	t.Parallel()
	status, _, said := command(t, nil, "serv")
	require.Equal(t, 1, status)
	require.Equal(t, "creditgate: there is no command creditgate serv; did you mean creditgate serve?\n", said)
	status, _, said = command(t, nil, "policy", "chek", "x")
	require.Equal(t, 1, status)
	require.Contains(t, said, "did you mean creditgate policy check?")
	status, _, said = command(t, nil, "serve", "--upstream-timeout", "sixty")
	require.Equal(t, 1, status)
	require.Contains(t, said, "must be a duration with its unit")
}

func TestInspectNeedsToBeAskedForSomething(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"inspect", "partition", "9"}, {"inspect", "reservation", "x"}, {"inspect", "account", "not a name"},
	} {
		status, _, said := command(t, []string{"CREDITGATE_REDIS_URL=redis://127.0.0.1:1/0"}, args...)
		require.Equal(t, 1, status)
		require.NotContains(t, said, "refused", "said before Redis is asked")
	}
}
