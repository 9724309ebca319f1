package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Settings come from a file, from CREDITGATE_* variables and from flags; the later win. All three are read by the
// same value, and a name that nothing knows is an error with the nearest one that is known: a misspelt limit that is
// silently ignored is worse than a gateway that does not start.

const (
	envPrefix = "CREDITGATE_"
	configEnv = envPrefix + "CONFIG"
)

func envName(setting string) string  { return envPrefix + strings.ToUpper(setting) }
func flagName(setting string) string { return "--" + dashed(setting) }
func dashed(setting string) string   { return strings.ReplaceAll(setting, "_", "-") }

// addFlags gives cmd the flags of the named settings, all of them if none is named.
func (c *config) addFlags(cmd *cobra.Command, names ...string) {
	cmd.Flags().String("config", "", "YAML file with settings, by the names that the flags have with _ for -")
	for _, s := range c.settings() {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		flag := &pflag.Flag{Name: dashed(s.name), Usage: s.help, Value: s.value, DefValue: s.value.String()}
		if s.value.kind == "bool" {
			flag.NoOptDefVal = "true"
		}
		cmd.Flags().AddFlag(flag)
	}
	cmd.Flags().SortFlags = false
}

// load fills in what the file and the environment say, except where a flag has said it. environ is as os.Environ
// gives it.
func (c *config) load(flags *pflag.FlagSet, environ []string) error {
	known := map[string]setting{}
	for _, s := range c.settings() {
		known[s.name] = s
	}
	flagged := func(name string) bool {
		f := flags.Lookup(dashed(name))
		return f != nil && f.Changed
	}
	path, _ := flags.GetString("config") // every command that loads settings has it
	env, errs := map[string]string{}, []error(nil)
	for _, line := range environ {
		name, text, _ := strings.Cut(line, "=")
		switch {
		case !strings.HasPrefix(name, envPrefix):
		case name == configEnv:
			if path == "" && text == "" {
				errs = append(errs, fmt.Errorf("%s: %w", name, errEmpty))
			} else if path == "" {
				path = text
			}
		default:
			env[name] = text
		}
	}
	if path != "" {
		errs = append(errs, readFile(path, known, flagged)...)
	}
	for _, s := range c.settings() {
		name := envName(s.name)
		if text, set := env[name]; set && !flagged(s.name) {
			if err := known[s.name].value.Set(text); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s", name, s.hide(err, text)))
			}
		}
		delete(env, name)
	}
	for _, name := range sortedKeys(env) {
		errs = append(errs, fmt.Errorf("%s: there is no such setting%s", name, didYouMean(envPrefix, name, envNames(known))))
	}
	return errors.Join(errs...)
}

func envNames(known map[string]setting) []string {
	names := []string{configEnv}
	for name := range known {
		names = append(names, envName(name))
	}
	return names
}

// hide keeps a secret out of a message about it.
func (s setting) hide(err error, text string) string {
	if s.secret && text != "" {
		return strings.ReplaceAll(err.Error(), text, "…")
	}
	return err.Error()
}

// place is where in a file something stands: file:line:column.
type place struct {
	file string
	node ast.Node
}

func (p place) errorf(format string, a ...any) error {
	at := p.node.GetToken().Position
	return fmt.Errorf("%s:%d:%d: %w", p.file, at.Line, max(1, at.Column), fmt.Errorf(format, a...))
}

// readFile reads a YAML mapping from setting to scalar or list; every mistake is named at its place.
func readFile(path string, known map[string]setting, skip func(string) bool) (errs []error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return []error{fmt.Errorf("config file: %w", err)}
	}
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return []error{syntaxError(path, err)}
	}
	seen := map[string]int{}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		m, ok := doc.Body.(ast.MapNode)
		if !ok {
			return append(errs, place{path, doc.Body}.errorf("must be a list of name: value, such as listen: :8080"))
		}
		for it := m.MapRange(); it.Next(); {
			at := place{path, it.Key()}
			name := it.Key().GetToken().Value
			s, ok := known[name]
			switch {
			case !ok:
				errs = append(errs, at.errorf("%s: there is no such setting%s", name, didYouMean("", name, sortedKeys(known))))
			case seen[name] > 0:
				errs = append(errs, at.errorf("%s: is set in line %d already; keep one of the two", name, seen[name]))
			case !skip(name):
				if err := s.read(place{path, it.Value()}); err != nil {
					errs = append(errs, err)
				}
			}
			seen[name] = it.Key().GetToken().Position.Line
		}
	}
	return errs
}

// read sets s from a node of the file.
func (s setting) read(at place) error {
	var words []string
	switch n := at.node.(type) {
	case *ast.SequenceNode:
		if !s.value.list {
			return at.errorf("%s: takes one value, not a list", s.name)
		}
		for _, v := range n.Values {
			words = append(words, scalar(v))
		}
	case *ast.NullNode:
		return at.errorf("%s: has no value; give one or remove the line", s.name)
	case ast.ScalarNode:
		words = []string{scalar(n)}
	default:
		return at.errorf("%s: takes one value, not a mapping", s.name)
	}
	text := strings.Join(words, ",")
	if err := s.value.Set(text); err != nil {
		return at.errorf("%s: %s", s.name, s.hide(err, text))
	}
	return nil
}

// scalar is the text of a value as it was written, without its quotes.
func scalar(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	}
	return n.GetToken().Value
}

func syntaxError(path string, err error) error {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		at := e.GetToken().Position
		return fmt.Errorf("%s:%d:%d: is not YAML: %s", path, at.Line, max(1, at.Column), e.GetMessage())
	}
	return fmt.Errorf("%s: is not YAML: %w", path, err)
}
