package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func (c *command) versionCommand() *cobra.Command {
	var bill bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Long: "Prints the version of this binary. With --sbom it prints what the binary is made of, as it was\n" +
			"recorded when it was built: a software bill of materials in CycloneDX's JSON.",
		Example: "  attune version -o json\n  attune version --sbom",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := c.sys.Version
			if bill {
				return c.printBill()
			}
			return c.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "attune %s (commit %s, %s, %s)\n", v.Version, v.Commit, v.Date, v.Go)
			})
		},
	}
	cmd.Flags().BoolVar(&bill, "sbom", false, "print a software bill of materials (CycloneDX, JSON)")
	return cmd
}

// billOfMaterials is the part of CycloneDX 1.6 that there is something to say about.
type billOfMaterials struct {
	Format      string `json:"bomFormat"`
	SpecVersion string `json:"specVersion"`
	Version     int    `json:"version"`
	Metadata    struct {
		Timestamp string        `json:"timestamp,omitempty"`
		Component billComponent `json:"component"`
	} `json:"metadata"`
	Components   []billComponent  `json:"components"`
	Dependencies []billDependency `json:"dependencies"`
}

type billComponent struct {
	Ref        string         `json:"bom-ref"`
	Type       string         `json:"type"`
	Name       string         `json:"name"`
	Version    string         `json:"version"`
	PackageURL string         `json:"purl"`
	Licenses   []billLicense  `json:"licenses,omitempty"`
	Properties []billProperty `json:"properties,omitempty"`
}

type billLicense struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type billProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type billDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// printBill prints what the linker recorded. It says the same whenever and wherever it is asked.
func (c *command) printBill() error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("cannot print a bill of materials: this binary was built without module information")
	}
	bill := newBill(info, c.sys.Version)
	encoder := json.NewEncoder(c.sys.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(bill)
}

func newBill(info *debug.BuildInfo, version Version) *billOfMaterials {
	bill := &billOfMaterials{Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Components: []billComponent{}}
	if version.Date != "unknown" {
		bill.Metadata.Timestamp = version.Date
	}
	main := module("application", info.Main.Path, version.Version)
	license := billLicense{}
	license.License.ID = "Apache-2.0"
	main.Licenses = []billLicense{license}
	bill.Metadata.Component = main
	// The standard library is part of the binary as the modules are.
	bill.Components = append(bill.Components, module("library", "std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		one := module("library", dep.Path, dep.Version)
		if dep.Sum != "" {
			one.Properties = []billProperty{{Name: "go:sum", Value: dep.Sum}}
		}
		bill.Components = append(bill.Components, one)
	}
	depends := billDependency{Ref: main.Ref}
	for _, one := range bill.Components {
		depends.DependsOn = append(depends.DependsOn, one.Ref)
	}
	bill.Dependencies = []billDependency{depends}
	return bill
}

func module(kind, path, version string) billComponent {
	url := "pkg:golang/" + path + "@" + version
	return billComponent{Ref: url, Type: kind, Name: path, Version: version, PackageURL: url}
}
