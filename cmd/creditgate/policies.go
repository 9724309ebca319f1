package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

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
		Short: "Print what a policy file, or each of a directory, says; or all its mistakes, with status 1",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			policies, err := loadPolicies(args[0])
			if err != nil {
				_, _ = fmt.Fprintln(a.err, err) // line by line as editors read it: file:line:column
				return &statusError{status: exitFailed}
			}
			for i, name := range sortedKeys(policies) {
				if i > 0 {
					_, _ = fmt.Fprintln(a.out)
				}
				if _, err := fmt.Fprint(a.out, policies[name].Summary()); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return cmd
}
