package store

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/attune-io/attune/reconcile/manifest"
)

// changeRows are changes as the columns that statements take: rows of many packs go in one.
type changeRows struct {
	packs struct {
		refs, directories, errors, manifests, digests []string
		vanished                                      []bool
	}
	revisions struct {
		refs, digests, versions, causes, changes, trees []string
	}
	bases struct {
		refs        []string
		generations []int64
	}
	pins struct {
		refs, by, reasons []string
		pinned            []bool
	}
	put   map[manifest.Kind]*componentRows
	given map[string]*givenByRule // by rule: see addRule
	// secretive are actions that take something secret: rules of any pack may give it.
	secretive []string
	disable   map[manifest.Kind][]string
	vanished  []string // packs
	content   map[string]func(digest string) ([]byte, error)
}

// givenByRule are the parameters that a rule gives its trigger, and its actions with those that it gives them; nil:
// it gives none.
type givenByRule struct{ trigger, actions json.RawMessage }

type componentRows struct {
	refs, packs, files, manifests, digests, filesDigests []string
}

// chunks gives the rows in parts that fit a statement.
func (c *componentRows) chunks() iter.Seq[componentRows] {
	return func(yield func(componentRows) bool) {
		for start, end := 0, 0; start < len(c.refs); start = end {
			for size := 0; end < len(c.refs) && end-start < chunkRows && size < chunkBytes; end++ {
				size += len(c.manifests[end])
			}
			part := componentRows{
				refs:         c.refs[start:end],
				packs:        c.packs[start:end],
				files:        c.files[start:end],
				manifests:    c.manifests[start:end],
				digests:      c.digests[start:end],
				filesDigests: c.filesDigests[start:end],
			}
			if !yield(part) {
				return
			}
		}
	}
}

func encodeChanges(changes []PackChange) (*changeRows, error) {
	rows := &changeRows{
		put:     map[manifest.Kind]*componentRows{},
		given:   map[string]*givenByRule{},
		disable: map[manifest.Kind][]string{},
		content: map[string]func(string) ([]byte, error){},
	}
	for _, kind := range manifest.ComponentKinds() {
		rows.put[kind] = &componentRows{}
	}
	for i := range changes {
		if err := rows.addPack(&changes[i]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (rows *changeRows) addPack(change *PackChange) error {
	findings := change.Errors
	if findings == nil {
		findings = manifest.Errors{}
	}
	told, err := encode(findings)
	if err != nil {
		return fmt.Errorf("cannot encode the errors of pack %s: %w", change.Ref, err)
	}
	normal, digest := "", ""
	if change.Manifest != nil {
		data, err := manifest.Encode(change.Manifest)
		if err != nil {
			return fmt.Errorf("cannot encode pack %s: %w", change.Ref, err)
		}
		normal, digest = storable(data), digestOf(data)
	}
	p := &rows.packs
	p.refs = append(p.refs, change.Ref)
	p.directories = append(p.directories, cleanText(change.Directory))
	p.vanished = append(p.vanished, change.Vanished)
	p.errors = append(p.errors, told)
	p.manifests = append(p.manifests, normal)
	p.digests = append(p.digests, digest)
	if change.Base != 0 {
		rows.bases.refs = append(rows.bases.refs, change.Ref)
		rows.bases.generations = append(rows.bases.generations, change.Base)
	}
	if change.Vanished {
		rows.vanished = append(rows.vanished, change.Ref)
	}
	for _, gone := range change.Disable {
		rows.disable[gone.Kind] = append(rows.disable[gone.Kind], gone.Ref)
	}
	for _, component := range change.Put {
		if err := rows.addComponent(change.Ref, component); err != nil {
			return err
		}
	}
	if pin := change.Pin; pin != nil {
		rows.pins.refs = append(rows.pins.refs, change.Ref)
		rows.pins.by = append(rows.pins.by, cleanText(pin.By))
		rows.pins.reasons = append(rows.pins.reasons, cleanText(pin.Reason))
		rows.pins.pinned = append(rows.pins.pinned, !pin.Unpin)
	}
	if change.Revision == nil {
		return nil
	}
	return rows.addRevision(change.Ref, change.Revision)
}

func (rows *changeRows) addComponent(pack string, component PutComponent) error {
	head, spec := component.Spec.Head(), component.Spec
	switch component := spec.(type) {
	case *manifest.Rule:
		without, err := rows.addRule(component)
		if err != nil {
			return err
		}
		spec = without
	case *manifest.Action:
		if len(component.Parameters.Secrets()) > 0 {
			rows.secretive = append(rows.secretive, head.Ref)
		}
	}
	data, err := manifest.Encode(spec)
	if err != nil {
		return fmt.Errorf("cannot encode %s %s: %w", spec.Kind(), head.Ref, err)
	}
	c := rows.put[component.Spec.Kind()]
	c.refs = append(c.refs, head.Ref)
	c.packs = append(c.packs, pack)
	c.files = append(c.files, cleanText(head.File))
	c.manifests = append(c.manifests, storable(data))
	c.digests = append(c.digests, component.Digest)
	c.filesDigests = append(c.filesDigests, component.FilesDigest)
	return nil
}

// addRule takes what a rule gives out of it. What of that is secret its trigger and its actions know, which are
// looked up when the rule is placed. Until then it is not written.
func (rows *changeRows) addRule(rule *manifest.Rule) (*manifest.Rule, error) {
	given := &givenByRule{}
	without := *rule
	if len(rule.Trigger.Parameters) > 0 {
		encoded, err := manifest.Encode(rule.Trigger.Parameters)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the parameters that rule %s gives its trigger: %w", rule.Ref, err)
		}
		given.trigger = json.RawMessage(storable(encoded))
		without.Trigger.Parameters = nil
	}
	if slices.ContainsFunc(rule.Actions, func(use manifest.Use) bool { return len(use.Parameters) > 0 }) {
		encoded, err := manifest.Encode(rule.Actions)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the parameters that rule %s gives its actions: %w", rule.Ref, err)
		}
		given.actions = json.RawMessage(storable(encoded))
		without.Actions = slices.Clone(rule.Actions)
		for i := range without.Actions {
			without.Actions[i].Parameters = nil
		}
	}
	rows.given[rule.Ref] = given
	return &without, nil
}

func (rows *changeRows) addRevision(pack string, revision *NewRevision) error {
	tree := revision.Tree
	if tree == nil {
		tree = []TreeEntry{}
	}
	files, err := encode(tree)
	if err != nil {
		return fmt.Errorf("cannot encode the files of pack %s: %w", pack, err)
	}
	lines := revision.Changes
	if lines == nil {
		lines = []string{}
	}
	changes, err := encode(lines)
	if err != nil {
		return fmt.Errorf("cannot encode the changes of pack %s: %w", pack, err)
	}
	r := &rows.revisions
	r.refs = append(r.refs, pack)
	r.digests = append(r.digests, revision.Digest)
	r.versions = append(r.versions, cleanText(revision.Version))
	r.causes = append(r.causes, cleanText(revision.Cause))
	r.changes = append(r.changes, changes)
	r.trees = append(r.trees, files)
	for _, entry := range revision.Tree {
		if entry.Digest != "" {
			rows.content[entry.Digest] = revision.Content
		}
	}
	return nil
}

// encode gives a value as JSON that PostgreSQL takes.
func encode(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	return storable(data), nil
}

// encodeObject is encode for what must be an object; nil is the empty one.
func encodeObject(object map[string]any) (string, error) {
	if object == nil {
		return "{}", nil
	}
	return encode(object)
}

// storable gives JSON of our own making as PostgreSQL takes it. What it changes, a NUL in somebody's
// description, needs no telling.
func storable(data json.RawMessage) string {
	clean, _ := cleanJSON(data)
	return string(clean)
}
