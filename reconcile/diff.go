package reconcile

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Snapshot is what one scan found in the packs folders, parsed and checked.
type Snapshot struct {
	Packs map[string]*PackState // by ref (folder name)
	// Scope are the packs that the scan can tell about; nil: all. One that is in Scope and not in
	// Packs has vanished; one outside stays as it is, because it did not change, could not be judged,
	// or is being written.
	Scope map[string]bool
	// Config is [packs.config], by pack ref: a sensor is started with it over its pack's own.
	Config map[string]map[string]any
}

// PackState is one pack's files.
type PackState struct {
	Folder    string
	Directory string // the packs directory
	Digest    string // of Tree
	Tree      []store.TreeEntry
	Bundle    *manifest.Bundle
	// FilesDigests are, by component ref, of the files whose change concerns it.
	FilesDigests map[string]string

	folder *folder
	// needs are the other packs that its files name.
	needs []string
}

// The kinds of step in a plan.
const (
	StepCreate  = "create"
	StepChange  = "change"
	StepDisable = "disable"
	StepEnable  = "enable" // the files of a disabled one came back
	StepKeep    = "keep"   // last good stays, because the new one is refused
)

// Plan is the difference between the files and the database: the value that is printed and the value
// that is applied.
type Plan struct {
	Packs []PackPlan `json:"packs"`
}

// PackPlan is the part of one pack; packs without a difference are left out.
type PackPlan struct {
	Ref     string          `json:"ref"`
	Version string          `json:"version,omitempty"`
	Digest  string          `json:"digest,omitempty"`
	Steps   []Step          `json:"steps"`
	Errors  manifest.Errors `json:"errors,omitempty"`
	// Held says why none of this is applied: a pin, or a stale checkout. Empty: an apply would.
	Held string `json:"held,omitempty"`

	change store.PackChange
	// writes says that the change does something: a plan that only keeps what is in force does not.
	writes bool
}

// Step is what happens to the pack itself (Kind pack) or to one component.
type Step struct {
	Op     string        `json:"op"`
	Kind   manifest.Kind `json:"kind"`
	Ref    string        `json:"ref"`
	Fields []FieldChange `json:"fields,omitempty"`
	// Files says that files which concern it changed.
	Files bool `json:"files,omitempty"`
	// Consequence is what follows: "restarts", "starts", "stops", "nothing restarts".
	Consequence string `json:"consequence,omitempty"`
	// Effects are the same for each sensor and rule that it concerns, with the reason.
	Effects []Effect `json:"effects,omitempty"`
	// Errors say why the last good one is kept; between two states, why the older one was refused.
	Errors manifest.Errors `json:"errors,omitempty"`
}

// Empty says that the files and the database agree.
func (p *Plan) Empty() bool { return len(p.Packs) == 0 }

// Diff is the pure function from what is wanted and what is recorded to what is to be done. It is
// total: whatever the files hold, what it does not refuse it can apply.
func Diff(wanted *Snapshot, actual *store.Catalog) *Plan {
	refs := wanted.Scope
	if refs == nil {
		refs = map[string]bool{}
		for ref := range wanted.Packs {
			refs[ref] = true
		}
		for ref := range actual.Packs {
			refs[ref] = true
		}
	}
	return diff(wanted, refs, actual, recordsOf(actual, refs))
}

// diff is Diff of the packs in scope, with their records at hand.
func diff(wanted *Snapshot, scope map[string]bool, actual *store.Catalog, records map[string][]*store.Record) *Plan {
	d := &differ{wanted: wanted, scope: scope, actual: actual, records: records}
	plan := &Plan{Packs: []PackPlan{}}
	for _, ref := range sortedKeys(scope) {
		if one := d.pack(ref, wanted.Packs[ref], actual.Packs[ref]); one != nil {
			plan.Packs = append(plan.Packs, *one)
		}
	}
	return plan
}

// recordsOf gives the components of the packs, each pack's in the order of ComponentKinds and by ref.
func recordsOf(c *store.Catalog, packs map[string]bool) map[string][]*store.Record {
	records := make(map[string][]*store.Record, len(packs))
	for pack := range packs {
		if members := c.Members(pack); len(members) > 0 {
			records[pack] = members
		}
	}
	return records
}

type differ struct {
	wanted  *Snapshot
	scope   map[string]bool // the packs that are compared
	actual  *store.Catalog
	records map[string][]*store.Record
}

// pack gives the part of one pack; nil: there is nothing to do or to say.
func (d *differ) pack(ref string, state *PackState, row *store.PackRow) *PackPlan {
	switch {
	case state != nil:
		return d.present(ref, state, row)
	case row != nil && (row.Present || len(row.Errors) > 0):
		return d.vanished(row)
	default:
		return nil
	}
}

// vanished disables a pack and all that is in it. History keeps its meaning: nothing is deleted.
func (d *differ) vanished(row *store.PackRow) *PackPlan {
	p := &PackPlan{
		Ref: row.Ref, Steps: []Step{}, writes: true,
		change: store.PackChange{Ref: row.Ref, Directory: row.Directory, Vanished: true, Base: baseOf(row)},
	}
	if row.Manifest != nil {
		p.Version = row.Manifest.Version
	}
	if !row.Present {
		return p // only its findings are of the past
	}
	p.Steps = append(p.Steps, Step{Op: StepDisable, Kind: manifest.KindPack, Ref: row.Ref, Consequence: consequenceNone})
	for _, r := range d.records[row.Ref] {
		if r.Present {
			effects := d.effects(&componentChange{record: r, was: r.Enabled, why: "its pack is gone"})
			p.Steps = append(p.Steps, Step{Op: StepDisable, Kind: r.Kind, Ref: r.Ref, Consequence: summary(effects), Effects: effects})
		}
	}
	p.tidyEffects()
	return p
}

// present compares a pack whose files are there.
func (d *differ) present(ref string, state *PackState, row *store.PackRow) *PackPlan {
	p := &packDiff{
		differ: d, state: state, row: row,
		plan: PackPlan{
			Ref: ref, Digest: state.Digest, Steps: []Step{}, Errors: state.Bundle.Errors,
			change: store.PackChange{Ref: ref, Directory: state.Directory, Errors: state.Bundle.Errors, Base: baseOf(row)},
		},
	}
	p.plan.writes = row == nil || !sameErrors(row.Errors, state.Bundle.Errors)
	if state.Bundle.Pack == nil {
		p.hold()
	} else {
		p.plan.Version = state.Bundle.Pack.Version
		p.pack()
		p.components()
		p.revision()
		p.packEffects()
		p.plan.tidyEffects()
	}
	if len(p.plan.Steps) == 0 && !p.plan.writes && !p.plan.Errors.HasErrors() {
		return nil
	}
	return &p.plan
}

// baseOf names the state of a pack's row that changes to it are made from; nil: there is none.
func baseOf(row *store.PackRow) int64 {
	if row == nil {
		return store.NoBase
	}
	return row.Generation
}

// packDiff is one pack being compared.
type packDiff struct {
	*differ
	state *PackState
	row   *store.PackRow // nil: never seen
	plan  PackPlan
}

func (p *packDiff) step(s Step) { p.plan.Steps = append(p.plan.Steps, s) }

// hold keeps all of a pack whose own manifest is refused: which of its components are meant to be
// there, nobody can say.
func (p *packDiff) hold() {
	p.plan.Digest = ""
	if p.row == nil || p.row.Manifest == nil {
		return
	}
	p.plan.Version = p.row.Manifest.Version
	var why manifest.Errors
	for _, e := range p.state.Bundle.Errors {
		if e.Kind == manifest.KindPack && e.Severity == manifest.SeverityError {
			why = append(why, e)
		}
	}
	p.step(Step{Op: StepKeep, Kind: manifest.KindPack, Ref: p.plan.Ref, Errors: why})
}

// pack compares the pack itself.
func (p *packDiff) pack() {
	pack := p.state.Bundle.Pack
	p.plan.change.Manifest = pack
	_, digest := normalForm(pack)
	step := Step{Kind: manifest.KindPack, Ref: p.plan.Ref, Consequence: consequenceNone}
	switch {
	case p.row == nil || p.row.Manifest == nil:
		step.Op = StepCreate
	case !p.row.Present:
		step.Op = StepEnable
		step.Fields = fieldChanges(p.row.Manifest, pack, nil)
	case p.row.Digest != digest:
		step.Op = StepChange
		step.Fields = fieldChanges(p.row.Manifest, pack, nil)
	case p.row.Directory != p.state.Directory:
		step.Op = StepChange
	default:
		return
	}
	if p.row != nil && p.row.Present && p.row.Directory != p.state.Directory {
		step.Fields = append(step.Fields, FieldChange{Field: "/directory", Old: p.row.Directory, New: p.state.Directory})
	}
	p.plan.writes = true
	p.step(step)
}

// components compares what is in the pack, and disables what is no longer.
func (p *packDiff) components() {
	known := map[store.ComponentRef]*store.Record{}
	for _, r := range p.records[p.plan.Ref] {
		known[store.ComponentRef{Kind: r.Kind, Ref: r.Ref}] = r
	}
	for _, c := range p.state.Bundle.Components() {
		key := store.ComponentRef{Kind: c.Kind(), Ref: c.Head().Ref}
		p.component(c, known[key])
		delete(known, key)
	}
	for _, r := range p.records[p.plan.Ref] {
		key := store.ComponentRef{Kind: r.Kind, Ref: r.Ref}
		if known[key] == nil || !r.Present {
			continue
		}
		if broken, ok := brokenOf(p.state.Bundle, r); ok {
			p.step(Step{Op: StepKeep, Kind: r.Kind, Ref: r.Ref, Errors: p.errorsOf(broken)})
			continue
		}
		p.plan.writes = true
		p.plan.change.Disable = append(p.plan.change.Disable, key)
		effects := p.effects(&componentChange{record: r, was: r.Enabled, why: "its manifest is gone"})
		p.step(Step{Op: StepDisable, Kind: r.Kind, Ref: r.Ref, Consequence: summary(effects), Effects: effects})
	}
}

// brokenOf finds the refused manifest because of which a component that is not among the accepted ones
// stays as it is: one of its ref, or one in the file that it came from.
func brokenOf(b *manifest.Bundle, r *store.Record) (manifest.Broken, bool) {
	var byFile *manifest.Broken
	for i, broken := range b.Broken {
		if broken.Kind != r.Kind {
			continue
		}
		if broken.Ref == r.Ref {
			return broken, true
		}
		if broken.File == r.File {
			byFile = &b.Broken[i]
		}
	}
	if byFile == nil {
		return manifest.Broken{}, false
	}
	return *byFile, true
}

// errorsOf are the errors of one manifest.
func (p *packDiff) errorsOf(broken manifest.Broken) manifest.Errors {
	var errs manifest.Errors
	for _, e := range p.state.Bundle.Errors {
		if e.Severity == manifest.SeverityError && e.File == p.state.Folder+"/"+broken.File {
			errs = append(errs, e)
		}
	}
	return errs
}

// component compares an accepted component with its record, which may be nil.
func (p *packDiff) component(c manifest.Component, r *store.Record) {
	head := c.Head()
	_, digest := normalForm(c)
	files := p.state.FilesDigests[head.Ref]
	put := store.PutComponent{Spec: c, Digest: digest, FilesDigest: files}
	packWill := p.state.Bundle.Pack.Enabled && (p.row == nil || p.row.DisabledBy == "")
	now := &componentChange{
		record: r, component: c, was: r != nil && r.Enabled,
		will: head.Enabled && packWill && (r == nil || r.DisabledBy == ""),
	}
	step := Step{Kind: c.Kind(), Ref: head.Ref}
	switch {
	case r == nil:
		step.Op, now.why = StepCreate, "it is new"
	case !r.Present:
		step.Op, now.why = StepEnable, "its manifest is back"
		step.Fields = fieldChanges(r.Spec, c, p.taken)
	case r.Digest != digest || r.FilesDigest != files:
		step.Op = StepChange
		step.Files = r.FilesDigest != files
		step.Fields = fieldChanges(r.Spec, c, p.taken)
		now.why = now.reason(r.Digest != digest, step.Files)
	case r.TreeDigest != p.state.Digest || r.File != head.File:
		// It follows its pack to the new revision; nothing that it is made of changed.
		p.plan.writes = true
		p.plan.change.Put = append(p.plan.change.Put, put)
		return
	default:
		return
	}
	step.Effects = p.effects(now)
	step.Consequence = summary(step.Effects)
	p.plan.writes = true
	p.plan.change.Put = append(p.plan.change.Put, put)
	p.step(step)
}

// reason says why a component that changed restarts, or comes into force or out of it.
func (c *componentChange) reason(manifestChanged, filesChanged bool) string {
	switch {
	case c.was != c.will && c.component.Head().Enabled != c.record.ManifestEnabled && c.will:
		return "its manifest enables it"
	case c.was != c.will && c.component.Head().Enabled != c.record.ManifestEnabled:
		return "its manifest disables it"
	case c.was != c.will && c.will:
		return "its pack is enabled"
	case c.was != c.will:
		return "its pack is disabled"
	case manifestChanged && filesChanged:
		return "its manifest and its files changed"
	case manifestChanged:
		return "its manifest changed"
	default:
		return "its files changed"
	}
}

// taken gives the schema of what an action or a trigger takes, as it is to be: what of it is secret is not
// shown.
func (p *packDiff) taken(kind manifest.Kind, ref string) *manifest.Schema {
	for _, c := range p.state.Bundle.Components() {
		if c.Kind() == kind && c.Head().Ref == ref {
			return takenBy(c)
		}
	}
	if r := p.actual.Records(kind)[ref]; r != nil {
		return takenBy(r.Spec)
	}
	return nil
}

// takenBy is the schema of what rules give to a component.
func takenBy(c manifest.Component) *manifest.Schema {
	switch c := c.(type) {
	case *manifest.Action:
		return c.Parameters
	case *manifest.Trigger:
		return c.ParametersSchema
	default:
		return nil
	}
}

// revision records the files where they are not those of the newest revision.
func (p *packDiff) revision() {
	if p.row != nil && p.row.TreeDigest == p.state.Digest {
		return
	}
	p.plan.writes = true
	if !slices.ContainsFunc(p.plan.Steps, func(s Step) bool { return s.Op != StepKeep }) {
		p.step(Step{Op: StepChange, Kind: manifest.KindPack, Ref: p.plan.Ref, Files: true, Consequence: consequenceNone})
	}
	revision := &store.NewRevision{
		Digest: p.state.Digest, Version: p.state.Bundle.Pack.Version, Tree: p.state.Tree, Changes: []string{},
	}
	for _, s := range p.plan.Steps {
		revision.Changes = append(revision.Changes, s.line())
	}
	p.plan.change.Revision = revision
}

// line is the step in a pack's history.
func (s Step) line() string {
	mark := map[string]string{StepCreate: "+", StepEnable: "+", StepChange: "~", StepDisable: "-", StepKeep: "!"}[s.Op]
	return fmt.Sprintf("%s %s %s", mark, s.Kind, s.Ref)
}

// normalForm gives what is compared of a pack or a component, and its digest.
func normalForm(v any) (json.RawMessage, string) {
	data, err := manifest.Encode(v)
	if err != nil {
		// What was read from YAML has a JSON form, or else its reader let something through.
		panic("reconcile: a checked manifest must encode: " + err.Error())
	}
	return data, digestOf(data)
}

// sameErrors compares findings by what they say.
func sameErrors(a, b manifest.Errors) bool {
	return slices.EqualFunc(a, b, func(x, y *manifest.Error) bool { return *x == *y })
}
