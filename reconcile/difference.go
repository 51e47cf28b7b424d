package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	udiff "github.com/rogpeppe/go-internal/diff"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// maxDiffFile is the largest file whose lines are compared, in bytes: longer ones are no text that
	// people read line by line.
	maxDiffFile = 1 << 20
	// maxDiffBytes bounds all differences of one answer together.
	maxDiffBytes = 4 << 20
)

// SideFolder names the pack's folder as it is now, where a revision could be named.
const SideFolder = "folder"

// ErrNoSide says that a side of a difference is neither a revision's number nor SideFolder.
var ErrNoSide = errors.New(`expected the number of a revision, or "folder"`)

// The kinds of difference between two states of a file.
const (
	FileAdded   = "added"
	FileRemoved = "removed"
	FileChanged = "changed"
)

// Side is one of two states of a pack's files.
type Side struct {
	// Revision is its number; 0: the folder as it is now.
	Revision int    `json:"revision"`
	Version  string `json:"version"`
	Digest   string `json:"digest"`
}

// Difference is what lies between two states of a pack's files.
type Difference struct {
	Pack string `json:"pack"`
	From Side   `json:"from"`
	To   Side   `json:"to"`
	// Steps are the pack and its components that differ, as a plan has them. One that the older state has too, and
	// that was refused there, is a change, with the errors of then.
	Steps []Step     `json:"steps"`
	Files []FileDiff `json:"files"` // by path
	// Errors are findings of parsing either side.
	Errors manifest.Errors `json:"errors,omitempty"`
}

// FileDiff is one file that differs.
type FileDiff struct {
	Path   string `json:"path"`
	Change string `json:"change"` // added, removed or changed
	// Diff is a unified diff, with *** in place of what a schema calls secret; empty: see Note. One of a
	// manifest that cannot be read is not shown: what of it is secret, nobody knows.
	Diff string `json:"diff,omitempty"`
	// Note says what a diff cannot: a mode, a link's target, that it is no text.
	Note string `json:"note,omitempty"`
}

// Difference compares two states of a pack's files, each the number of a revision or SideFolder. Empty
// sides are the newest revision, and the one before. It does not wait for a pass.
func (r *Reconciler) Difference(ctx context.Context, pack, from, to string) (*Difference, error) {
	d, err := r.difference(ctx, pack, from, to)
	if err != nil {
		return nil, fmt.Errorf("cannot compare the files of pack %s: %w", pack, err)
	}
	return d, nil
}

func (r *Reconciler) difference(ctx context.Context, pack, from, to string) (*Difference, error) {
	newest, err := r.opts.Store.Revisions(ctx, pack, 2)
	if err != nil {
		return nil, err
	}
	if len(newest) == 0 {
		return nil, ErrNoPack
	}
	if to == "" {
		to = strconv.Itoa(newest[0].Number)
	}
	if from == "" {
		switch {
		case to == SideFolder:
			from = strconv.Itoa(newest[0].Number)
		case len(newest) < 2:
			return nil, fmt.Errorf("%w before revision %d, which is the only one", ErrNoRevision, newest[0].Number)
		default:
			from = strconv.Itoa(newest[1].Number)
		}
	}
	now := time.Now()
	was, wasSide, err := r.side(ctx, pack, from, now)
	if err != nil {
		return nil, err
	}
	will, willSide, err := r.side(ctx, pack, to, now)
	if err != nil {
		return nil, err
	}
	will.Directory = was.Directory // where it lies is no difference of its files
	catalog, err := r.opts.Store.Catalog(ctx, nil)
	if err != nil {
		return nil, err
	}
	// What an older revision was judged by is past; of the others it is known.
	judged := func(state *PackState, side Side) (*PackState, error) {
		if side.Revision == 0 || side.Revision == newest[0].Number {
			return r.judge(state, catalog, now)
		}
		return state, nil
	}
	before, err := judged(was, wasSide)
	if err != nil {
		return nil, err
	}
	after, err := judged(will, willSide)
	if err != nil {
		return nil, err
	}
	others := othersOf(catalog, was, will)
	d := &Difference{Pack: pack, From: wasSide, To: willSide, Steps: []Step{}, Files: []FileDiff{}}
	actual := catalogOf(before)
	for _, record := range others {
		actual.Records(record.Kind)[record.Ref] = record
	}
	plan := Diff(&Snapshot{Packs: map[string]*PackState{pack: after}}, actual)
	for _, one := range plan.Packs {
		for _, s := range one.Steps {
			s.Consequence, s.Effects = "", nil // nobody applies it
			if why, refused := refusedBefore(before, &s); refused {
				s.Op, s.Errors = StepChange, why
			}
			d.Steps = append(d.Steps, s)
		}
		d.Errors = one.Errors
	}
	d.Files, err = fileDiffs(was, will, newConcealer(was, will, others))
	return d, err
}

// judge gives a state as an apply would take it: what it refuses is no part of it. The state itself stays, as what
// is secret in a manifest is told by what the manifest says.
func (r *Reconciler) judge(s *PackState, catalog *store.Catalog, now time.Time) (*PackState, error) {
	judged, err := r.stateOf(s.folder, nil, nil)
	if err != nil {
		return nil, err
	}
	judged.Directory = s.Directory
	manifest.Check([]*manifest.Bundle{judged.Bundle}, manifest.CheckOptions{
		InForce: catalog.InForce(), SwitchedOff: switchedOff(catalog),
		Environment: newPreflight(r.opts.Interpreters, []*folder{judged.folder}, now), Version: r.opts.Version, Now: now,
	})
	return judged, nil
}

// refusedBefore says of a step that seems to create something that the older state has it too, and why it was
// refused there.
func refusedBefore(was *PackState, s *Step) (why manifest.Errors, refused bool) {
	if s.Op != StepCreate {
		return nil, false
	}
	for _, b := range was.Bundle.Broken {
		if b.Kind != s.Kind || b.Ref != s.Ref {
			continue
		}
		for _, e := range was.Bundle.Errors {
			if e.Severity == manifest.SeverityError && e.File == was.Folder+"/"+b.File {
				why = append(why, e)
			}
		}
		return why, true
	}
	return nil, false
}

// othersOf are the components in force in other packs that rules of either state name: what of their parameters
// is secret, only they know.
func othersOf(catalog *store.Catalog, states ...*PackState) []*store.Record {
	named := map[store.ComponentRef]bool{}
	name := func(state *PackState, kind manifest.Kind, ref string) {
		if pack, _ := manifest.SplitRef(ref); pack != state.Folder {
			named[store.ComponentRef{Kind: kind, Ref: ref}] = true
		}
	}
	for _, s := range states {
		for _, rule := range s.Bundle.Rules {
			name(s, manifest.KindTrigger, rule.Trigger.Ref)
			for _, use := range rule.Actions {
				name(s, manifest.KindAction, use.Ref)
			}
		}
	}
	var found []*store.Record
	for key := range named {
		if record := catalog.Records(key.Kind)[key.Ref]; record != nil {
			found = append(found, record)
		}
	}
	return found
}

// side reads one state.
func (r *Reconciler) side(ctx context.Context, pack, name string, now time.Time) (*PackState, Side, error) {
	if name == SideFolder {
		state, err := r.folderState(pack, now)
		if err != nil {
			return nil, Side{}, err
		}
		return state, Side{Digest: state.Digest, Version: versionOf(state)}, nil
	}
	number, err := strconv.Atoi(name)
	if err != nil || number <= 0 {
		return nil, Side{}, fmt.Errorf("%q: %w", name, ErrNoSide)
	}
	revision, tree, err := r.opts.Store.Revision(ctx, pack, number)
	if errors.Is(err, store.ErrNotFound) {
		return nil, Side{}, fmt.Errorf("%w: %d", ErrNoRevision, number)
	}
	if err != nil {
		return nil, Side{}, err
	}
	state, err := r.stateOfRevision(ctx, &store.PackRow{Ref: pack}, revision, tree, nil, now)
	return state, Side{Revision: number, Version: revision.Version, Digest: revision.Digest}, err
}

// folderState reads the pack's folder as it is now.
func (r *Reconciler) folderState(pack string, now time.Time) (*PackState, error) {
	for _, directory := range slices.Backward(r.opts.Directories) {
		real, _, err := follow("/", directory)
		if err != nil {
			continue
		}
		if p := placeOf(directory, real, pack); hasPackFile(p) {
			v := scanAt(p, now)
			if v.folder == nil || v.outcome == gone {
				continue
			}
			return r.stateOf(v.folder, v.content, nil)
		}
	}
	return nil, fmt.Errorf("there is no folder of it in %s", strings.Join(r.opts.Directories, ", "))
}

func versionOf(s *PackState) string {
	if s.Bundle.Pack == nil {
		return ""
	}
	return s.Bundle.Pack.Version
}

// catalogOf is the catalog of a database in which exactly this state is in force.
func catalogOf(s *PackState) *store.Catalog {
	c := &store.Catalog{
		Packs: map[string]*store.PackRow{}, Actions: map[string]*store.Record{}, Triggers: map[string]*store.Record{},
		Sensors: map[string]*store.Record{}, Rules: map[string]*store.Record{},
	}
	pack := s.Bundle.Pack
	row := &store.PackRow{Ref: s.Folder, Directory: s.Directory, Present: true, TreeDigest: s.Digest, Errors: s.Bundle.Errors}
	if pack != nil {
		row.Manifest, row.Enabled, row.ManifestEnabled = pack, pack.Enabled, pack.Enabled
		_, row.Digest = normalForm(pack)
	}
	c.Packs[s.Folder] = row
	for _, component := range s.Bundle.Components() {
		head := component.Head()
		_, digest := normalForm(component)
		c.Records(component.Kind())[head.Ref] = &store.Record{
			Kind: component.Kind(), Ref: head.Ref, Pack: s.Folder, File: head.File, Present: true, Enabled: head.Enabled && row.Enabled,
			ManifestEnabled: head.Enabled, Digest: digest, FilesDigest: s.FilesDigests[head.Ref], TreeDigest: s.Digest, Spec: component,
		}
	}
	return c
}

// fileDiffs compares the trees of two states.
func fileDiffs(was, will *PackState, secrets *concealer) ([]FileDiff, error) {
	before, after := entriesByPath(was.Tree), entriesByPath(will.Tree)
	paths := map[string]bool{}
	for p := range before {
		paths[p] = true
	}
	for p := range after {
		paths[p] = true
	}
	left := maxDiffBytes
	files := []FileDiff{}
	for _, p := range sortedKeys(paths) {
		old, wasThere := before[p]
		wanted, isThere := after[p]
		if wasThere && isThere && old == wanted {
			continue
		}
		one := FileDiff{Path: p, Change: FileChanged}
		switch {
		case !wasThere:
			one.Change = FileAdded
		case !isThere:
			one.Change = FileRemoved
		}
		one.Note = noteOf(old, wanted, one.Change)
		if old.Digest != wanted.Digest {
			text, why, err := textDiff(p, old, wanted, was, will, secrets, left)
			if err != nil {
				return nil, err
			}
			left -= len(text)
			one.Diff = text
			one.Note = strings.Trim(one.Note+", "+why, ", ")
		}
		files = append(files, one)
	}
	return files, nil
}

func entriesByPath(tree []store.TreeEntry) map[string]store.TreeEntry {
	entries := map[string]store.TreeEntry{}
	for _, entry := range tree {
		entries[entry.Path] = entry
	}
	return entries
}

// noteOf tells what of a file is no line of it.
func noteOf(old, wanted store.TreeEntry, change string) string {
	switch {
	case old.Link != wanted.Link && old.Link == "" && change == FileAdded:
		return "a link to " + wanted.Link
	case old.Link != wanted.Link && wanted.Link == "":
		return "was a link to " + old.Link
	case old.Link != wanted.Link && old.Link == "":
		return "is a link to " + wanted.Link + " now"
	case old.Link != wanted.Link:
		return fmt.Sprintf("leads to %s now, led to %s", wanted.Link, old.Link)
	case change == FileChanged && old.Executable != wanted.Executable && wanted.Executable:
		return "got the x bit"
	case change == FileChanged && old.Executable != wanted.Executable:
		return "lost the x bit"
	default:
		return ""
	}
}

// textDiff compares two files by line; where that is not to be, it says why.
func textDiff(p string, old, wanted store.TreeEntry, was, will *PackState, secrets *concealer, left int) (text, why string, err error) {
	if max(old.Size, wanted.Size) > maxDiffFile {
		return "", fmt.Sprintf("too large to compare by line (%d and %d bytes)", old.Size, wanted.Size), nil
	}
	before, err := contentFor(was, old)
	if err != nil {
		return "", "", err
	}
	after, err := contentFor(will, wanted)
	if err != nil {
		return "", "", err
	}
	if !isText(before) || !isText(after) {
		return "", "no text", nil
	}
	from, to := filepath.Join("a", p), filepath.Join("b", p)
	if old.Digest == "" {
		from = "/dev/null"
	}
	if wanted.Digest == "" {
		to = "/dev/null"
	}
	shown, ok := secrets.conceal(p, before, after, string(udiff.Diff(from, before, to, after)))
	if !ok {
		return "", "not shown: what of it is secret cannot be told, because a manifest cannot be read", nil
	}
	if len(shown) > left {
		return "", "left out: the whole difference is too long", nil
	}
	return shown, "", nil
}

func contentFor(s *PackState, entry store.TreeEntry) ([]byte, error) {
	if entry.Digest == "" {
		return nil, nil
	}
	return s.folder.contentOf(entry.Digest)
}

func isText(content []byte) bool { return utf8.Valid(content) && bytes.IndexByte(content, 0) < 0 }
