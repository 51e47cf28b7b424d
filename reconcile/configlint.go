package reconcile

import (
	"fmt"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// PackConfigs is what the packs in packs folders say of their configuration.
type PackConfigs struct {
	// Findings are what is wrong with [packs.config], and with the packs' own configuration.
	Findings manifest.Errors
	// Packs are the manifests that could be read, by ref.
	Packs map[string]*manifest.Pack
}

// LintConfig checks [packs.config] against the conf_schema of the packs in the packs folders, with no
// daemon and no database. place gives where a key stands; a key without a place is a default. A packs
// folder that is not there has no packs.
func LintConfig(directories, patterns []string, config map[string]map[string]any, place func(pack, key string) manifest.Place) *PackConfigs {
	l := list(directories, patterns, uncovered{}, nil, true)
	found := &PackConfigs{Findings: manifest.Errors{}, Packs: map[string]*manifest.Pack{}}
	now := time.Now()
	for _, ref := range sortedKeys(l.places) {
		v := scanAt(l.places[ref], now)
		if v.outcome == gone {
			continue
		}
		b, err := v.folder.bundle(v.content)
		if err != nil || b.Pack == nil {
			continue // lint tells what is wrong with it
		}
		found.Packs[ref] = b.Pack
		found.Findings = append(found.Findings, manifest.ConfigFindings(b, config[ref], place)...)
	}
	if l.problem() != "" {
		return found // whether a pack is there, nobody can say
	}
	for _, ref := range sortedKeys(config) {
		for _, key := range sortedKeys(config[ref]) {
			at := place(ref, key)
			if found.Packs[ref] != nil || at == (manifest.Place{}) {
				continue
			}
			if _, there := l.places[ref]; there {
				continue // it is broken
			}
			f := &manifest.Error{
				Place: at, Severity: manifest.SeverityWarning, Kind: manifest.KindPack, Ref: ref,
				Message: fmt.Sprintf("nobody uses packs.config.%s.%s: there is no pack %q in the packs folders", ref, key, ref),
			}
			if near := manifest.Nearest(ref, sortedKeys(l.places)); near != "" {
				f.Hint = fmt.Sprintf("did you mean %q?", near)
			}
			found.Findings = append(found.Findings, f)
		}
	}
	found.Findings.Sort()
	return found
}
