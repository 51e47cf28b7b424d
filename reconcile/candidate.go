package reconcile

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Candidate is a rule as a file has it, applied or not.
type Candidate struct {
	Rule *manifest.Rule
	// File is where it stands, "pack/rules/x.yaml".
	File string
	// Components are the rule and what else of its pack the same reading found.
	Components []manifest.Component
	// Errors are the findings about the rule; with an error among them it would be refused, and Rule
	// may be nil.
	Errors manifest.Errors
}

// CandidateInFolder reads a rule from the packs folder, the last directory that has its pack, with all
// that is beside it there. nil: no file has such a rule.
func CandidateInFolder(directories []string, ref string, catalog *store.Catalog) (*Candidate, error) {
	pack, _ := manifest.SplitRef(ref)
	for _, directory := range slices.Backward(directories) {
		whole, err := filepath.Abs(directory)
		if err != nil {
			return nil, fmt.Errorf("cannot read packs folder %s: %v", directory, err)
		}
		real, _, err := follow("/", whole)
		if err != nil {
			continue // it is not there, and so neither is the pack
		}
		p := placeOf(whole, real, pack)
		if !hasPackFile(p) {
			continue
		}
		_, bundles, notices := bundlesAt([]place{p}, time.Now())
		if len(bundles) == 0 {
			return nil, fmt.Errorf("cannot read pack %s: %w", pack, notices)
		}
		path := ""
		if record := catalog.Rules[ref]; record != nil {
			path = record.File
		}
		return candidateOf(bundles[0], ref, path, catalog), nil
	}
	return nil, nil //nolint:nilnil // that nothing was found is no error
}

// CandidateFile makes a rule of a file's content, as if it stood in its pack; name is the file's, for
// findings. nil: it holds no such rule.
func CandidateFile(ref, name string, content []byte, catalog *store.Catalog) *Candidate {
	pack, own := manifest.SplitRef(ref)
	// It is read under the rule's own name, which a manifest without a name takes from its file.
	path := "rules/" + own + ".yaml"
	b := manifest.Parse(pack, map[string]manifest.File{"pack.yaml": {Content: []byte("version: 0.0.0\n")}, path: {Content: content}})
	// The rest of the pack is what is in force of it.
	for _, kind := range []manifest.Kind{manifest.KindAction, manifest.KindTrigger} {
		for _, r := range catalog.Records(kind) {
			if r.Pack != pack || !r.Present {
				continue
			}
			switch spec := r.Spec.(type) {
			case *manifest.Action:
				b.Actions = append(b.Actions, spec)
			case *manifest.Trigger:
				b.Triggers = append(b.Triggers, spec)
			}
		}
	}
	c := candidateOf(b, ref, path, catalog)
	if c == nil {
		return nil
	}
	c.File = name
	for _, e := range c.Errors {
		if e.File == pack+"/"+path {
			e.File = name
		}
	}
	return c
}

// candidateOf checks a pack against what is in force, and takes the rule out of it. path is where the
// rule's file should be: one that cannot be read does not say whose it is.
func candidateOf(b *manifest.Bundle, ref, path string, catalog *store.Catalog) *Candidate {
	c := &Candidate{}
	for _, r := range b.Rules {
		if r.Ref == ref {
			c.Rule, path = r, r.File
		}
	}
	// Whether the pack is switched off is no matter of the rule.
	if b.Pack != nil {
		b.Pack.Enabled = true
	}
	manifest.Check([]*manifest.Bundle{b}, manifest.CheckOptions{InForce: catalog.InForce(), SwitchedOff: switchedOff(catalog)})
	c.Components = b.Components()
	for _, broken := range b.Broken {
		if broken.Kind == manifest.KindRule && broken.Ref == ref {
			path = broken.File
		}
	}
	c.File = b.Folder + "/" + path
	for _, e := range b.Errors {
		if e.Ref == ref && e.Kind == manifest.KindRule || path != "" && e.File == c.File {
			c.Errors = append(c.Errors, e)
		}
	}
	if c.Rule == nil && !c.Errors.HasErrors() {
		return nil
	}
	return c
}
