package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"creditgate/persist"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema to this version, back, or show where it is",
		Long:  "Bring the database's schema to this version, back, or show where it is. Without a word: up.",
		Args:  cobra.NoArgs,
	}
	settings := []string{"migrate_url"}
	up := func(cmd *cobra.Command, c *config, _ []string) error {
		if err := c.require("migrate_url"); err != nil {
			return err
		}
		if err := persist.Migrate(cmd.Context(), c.MigrateURL); err != nil {
			return err
		}
		return a.migrateStatus(cmd, c)
	}
	a.configured(cmd, up, settings...)
	cmd.AddCommand(
		a.configured(&cobra.Command{Use: "up", Short: "Bring the schema to this version", Args: cobra.NoArgs}, up, settings...),
		a.configured(&cobra.Command{
			Use:   "down VERSION",
			Short: "Take the schema down to a version; 0 removes everything, the ledger too",
			Args:  cobra.ExactArgs(1),
		}, func(cmd *cobra.Command, c *config, args []string) error {
			version, err := strconv.Atoi(args[0])
			if err != nil || version < 0 {
				return fmt.Errorf("migrate down: %q is not a version; 0 removes everything", args[0])
			}
			if err := c.require("migrate_url"); err != nil {
				return err
			}
			if err := persist.MigrateDown(cmd.Context(), c.MigrateURL, version); err != nil {
				return err
			}
			return a.migrateStatus(cmd, c)
		}, settings...),
		a.configured(&cobra.Command{Use: "status", Short: "Show the schema's version", Args: cobra.NoArgs},
			func(cmd *cobra.Command, c *config, _ []string) error {
				if err := c.require("migrate_url"); err != nil {
					return err
				}
				return a.migrateStatus(cmd, c)
			}, settings...),
	)
	return cmd
}

func (a *app) migrateStatus(cmd *cobra.Command, c *config) error {
	have, want, err := persist.SchemaVersion(cmd.Context(), c.MigrateURL)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "schema version %d; this binary needs %d\n", have, want)
	return err
}
