package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) packSchema() *cobra.Command {
	var directory string
	cmd := &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schemas of manifests, for editors; needs no daemon",
		Long: "Prints the JSON Schema (2020-12) of a kind of manifest: pack, action, trigger, sensor or rule;\n" +
			"without KIND, one object with all five. With --directory it writes them into a folder, a file\n" +
			"KIND.json each, for the line\n\n" +
			"    # yaml-language-server: $schema=../../schema/action.json\n\n" +
			"at the top of a manifest, which most editors understand.",
		Example:   "  attune pack schema rule\n  attune pack schema --directory schema",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: kindNames(),
		RunE: func(_ *cobra.Command, args []string) error {
			kinds := kindNames()
			if len(args) == 1 {
				if !slices.Contains(kinds, args[0]) {
					err := &usageError{text: fmt.Sprintf("cannot print the schema of %q: there are pack, action, trigger, sensor and rule", args[0])}
					if near := manifest.Nearest(args[0], kinds); near != "" {
						err.hint = fmt.Sprintf("Did you mean `attune pack schema %s`?", near)
					}
					return err
				}
				kinds = args
			}
			if directory != "" {
				return c.writeSchemas(directory, kinds)
			}
			return c.printSchemas(kinds, len(args) == 1)
		},
	}
	cmd.Flags().StringVar(&directory, "directory", "", "write KIND.json into this folder instead of printing")
	return cmd
}

func kindNames() []string {
	names := []string{string(manifest.KindPack)}
	for _, kind := range manifest.ComponentKinds() {
		names = append(names, string(kind))
	}
	return names
}

func (c *command) printSchemas(kinds []string, alone bool) error {
	all := map[string]json.RawMessage{}
	for _, kind := range kinds {
		text, err := manifest.EditorSchema(manifest.Kind(kind))
		if err != nil {
			return err
		}
		if alone && c.output != outputYAML {
			_, err := c.sys.Stdout.Write(text)
			return err
		}
		all[kind] = text
	}
	if c.output == outputTable {
		c.output = outputJSON // a schema has no other form
	}
	if alone {
		return c.print(all[kinds[0]], nil)
	}
	return c.print(all, nil)
}

func (c *command) writeSchemas(directory string, kinds []string) error {
	if err := os.MkdirAll(directory, 0o755); err != nil { //nolint:gosec // for everybody's editor
		return fmt.Errorf("cannot write the schemas: %w", err)
	}
	for _, kind := range kinds {
		text, err := manifest.EditorSchema(manifest.Kind(kind))
		if err != nil {
			return err
		}
		file := filepath.Join(directory, kind+".json")
		if err := os.WriteFile(file, text, 0o644); err != nil { //nolint:gosec // for everybody's editor
			return fmt.Errorf("cannot write the schemas: %w", err)
		}
		c.note("wrote %s", file)
	}
	return nil
}
