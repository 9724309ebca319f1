package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"
	plain "text/template"

	"creditgate/bench/result"
)

//go:embed page.html.tmpl
var pageTemplate string

//go:embed page.md.tmpl
var markdownTemplate string

// page is what both templates are filled with.
type page struct {
	Run      *result.Run
	Versions []string
	Started  string
	RAM      string
	Promises []promise
	Plots    []*plot
	Tables   []table
	Growth   []section
}

// Write puts report.html and report.md about the run into dir, and returns the path of the first. Those of an earlier
// run are replaced.
func Write(run *result.Run, dir string) (string, error) {
	rows := cells(run.Rows)
	drawn, err := plots(rows)
	if err != nil {
		return "", fmt.Errorf("plots of run %s: %w", run.Name, err)
	}
	p := page{
		Run: run, Versions: versions(run.Versions), Started: run.Started.UTC().Format("2006-01-02 15:04 UTC"),
		RAM:      number(float64(run.Machine.RAMBytes>>20)/1024) + " GiB",
		Promises: promises(rows), Plots: drawn, Tables: tables(rows),
		Growth: append(renewalSection(rows.suite("renewals")), growthSection(rows)...),
	}
	html, err := template.New("report.html").Parse(pageTemplate)
	if err != nil {
		return "", err
	}
	markdown, err := plain.New("report.md").Funcs(plain.FuncMap{"row": markdownRow, "rule": markdownRule}).Parse(markdownTemplate)
	if err != nil {
		return "", err
	}
	var page, tables strings.Builder
	if err := html.Execute(&page, p); err != nil {
		return "", err
	}
	if err := markdown.Execute(&tables, p); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make the directory of the report: %w", err)
	}
	path := filepath.Join(dir, "report.html")
	for name, content := range map[string]string{path: page.String(), filepath.Join(dir, "report.md"): tables.String()} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil { //nolint:gosec // it is for everybody to read
			return "", fmt.Errorf("write the report: %w", err)
		}
	}
	return path, nil
}

// versions names the programs that took part.
func versions(v result.Versions) []string {
	out := []string{v.Creditgate}
	if !strings.Contains(v.Creditgate, "creditgate") {
		out = []string{"creditgate " + v.Creditgate}
	}
	for _, p := range []struct{ name, said string }{{"Go", v.Go}, {"Redis", v.Redis}, {"Postgres", v.Postgres}, {"nginx", v.Nginx}} {
		if p.said != "" {
			out = append(out, p.name+" "+version(p.said))
		}
	}
	return out
}

// markdownRow is a line of a table.
func markdownRow(columns []string) string {
	return "| " + strings.Join(columns, " | ") + " |"
}

// markdownRule stands below the head: figures are flush right.
func markdownRule(head []string) string {
	return "|---|" + strings.Repeat("--:|", len(head)-1)
}
