package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"creditgate/meter/policy"
)

// loadPolicies reads a policy file, or every *.yaml and *.yml of a directory; the result is by product, which is the
// policy's name. All mistakes of all files are returned together.
func loadPolicies(path string) (map[string]*policy.Policy, error) {
	files, err := policyFiles(path)
	if err != nil {
		return nil, err
	}
	policies, from := map[string]*policy.Policy{}, map[string]string{}
	var errs []error
	for _, file := range files {
		p, err := policy.Load(file)
		switch {
		case err != nil:
			errs = append(errs, err)
		case policies[p.Name] != nil:
			errs = append(errs, fmt.Errorf("%s: name: %s is the product of %s already; each file describes its own",
				file, p.Name, from[p.Name]))
		default:
			policies[p.Name], from[p.Name] = p, file
		}
	}
	return policies, errors.Join(errs...)
}

func policyFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	for _, pattern := range [...]string{"*.yaml", "*.yml"} {
		found, err := filepath.Glob(filepath.Join(path, pattern))
		if err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("policy: %s has no *.yaml files; creditgate policy check tells whether one is right", path)
	}
	slices.Sort(files)
	return files, nil
}

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Work with policy files", Args: cobra.ArbitraryArgs, RunE: noSuchCommand,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.simulateCommand())
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Print what a policy file, or each of a directory, says, with warnings; or all its mistakes, with status 1",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.checkPolicies(args[0]) },
	}, &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Print what changes for whom when a policy file, or a directory, takes the place of another",
		Args:  cobra.ExactArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return a.diffPolicies(args[0], args[1]) },
	})
	return cmd
}

func (a *app) checkPolicies(path string) error {
	policies, err := loadPolicies(path)
	if err != nil {
		return a.brokenPolicies(err)
	}
	var texts []string
	for _, name := range sortedKeys(policies) {
		texts = append(texts, policies[name].Summary())
		for _, w := range policies[name].Warnings {
			_, _ = fmt.Fprintln(a.err, w)
		}
	}
	_, err = fmt.Fprint(a.out, strings.Join(texts, "\n"))
	return err
}

// diffPolicies compares product by product; one product with one product even when it is renamed.
func (a *app) diffPolicies(before, after string) error {
	old, oldErr := loadPolicies(before)
	now, err := loadPolicies(after)
	if err = errors.Join(oldErr, err); err != nil {
		return a.brokenPolicies(err)
	}
	if len(old) == 1 && len(now) == 1 {
		_, err = fmt.Fprint(a.out, policy.Changes(old[sortedKeys(old)[0]], now[sortedKeys(now)[0]]))
		return err
	}
	var texts []string
	for _, name := range sortedKeys(old) {
		if is, stays := now[name]; stays {
			texts = append(texts, policy.Changes(old[name], is))
		} else {
			texts = append(texts, fmt.Sprintf("%s, version %s, is removed\n", name, old[name].Version()))
		}
	}
	for _, name := range sortedKeys(now) {
		if old[name] == nil {
			texts = append(texts, fmt.Sprintf("%s, version %s, is new\n", name, now[name].Version()))
		}
	}
	_, err = fmt.Fprint(a.out, strings.Join(texts, "\n"))
	return err
}

// brokenPolicies prints mistakes line by line, as editors read them: file:line:column.
func (a *app) brokenPolicies(err error) error {
	_, _ = fmt.Fprintln(a.err, err)
	return &statusError{status: exitFailed}
}
