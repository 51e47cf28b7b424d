package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// chunkRows and chunkBytes bound one statement, so that ten thousand packs neither need their
	// size twice in memory nor meet the server's limit of 1 GB for a message.
	chunkRows  = 5000
	chunkBytes = 16 << 20
)

// TreeEntry is one file of a revision.
type TreeEntry struct {
	Path       string `json:"path"`
	Executable bool   `json:"x,omitempty"`
	// Digest is the hex SHA-256 of the content; empty for a link.
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Link is the target of a symbolic link that stays inside the pack.
	Link string `json:"link,omitempty"`
}

// NewRevision is a pack's state about to be recorded.
type NewRevision struct {
	Digest  string // of the tree
	Version string
	Cause   string // "start", "edit", "resync", "signal", "command alice", "rollback to 2 by alice", …
	Tree    []TreeEntry
	Changes []string // one line for each component: "~ action core.echo"
	// Content gives a file's bytes by digest; it is asked only for what the database lacks.
	Content func(digest string) ([]byte, error)
}

// PackChange is all that one apply does to one pack.
type PackChange struct {
	Ref       string
	Directory string
	// Manifest is nil when pack.yaml was refused or the pack has vanished: the row's stays.
	Manifest *manifest.Pack
	// Vanished disables the pack and all that is in it.
	Vanished bool
	// Revision is nil when the files are those of the newest revision.
	Revision *NewRevision
	// Put are the components that are created, changed, or moved to the (new or newest) revision.
	Put []PutComponent
	// Disable are components whose manifests have vanished.
	Disable []ComponentRef
	// Errors replace the row's.
	Errors manifest.Errors
	// Pin pins the pack to what is its newest revision then, or ends that; nil: as it was.
	Pin *Pin
	// Base is the row's Generation that the change was made from, NoBase where there was no row: if it is
	// another now, nothing of the transaction is done. 0: whatever it is.
	Base int64
	// Audit is who wanted it, recorded with it; nil: nobody in particular.
	Audit *NewAudit
	// Errand is another node's that this does; 0: none. ErrErrandGone, and nothing is done, where that was
	// done before or was taken back.
	Errand int64
}

// NoBase is the Base of a change to a pack that the database did not have.
const NoBase = -1

// MovedError names packs that somebody else changed after the changes to them were made up.
type MovedError struct{ Packs []string }

// Error names them.
func (e *MovedError) Error() string {
	const most = 10
	names := strings.Join(e.Packs[:min(most, len(e.Packs))], ", ")
	if more := len(e.Packs) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return "they were changed by somebody else meanwhile: " + names
}

// Pin says who pins a pack and why, or unpins it.
type Pin struct {
	By, Reason string
	Unpin      bool
}

// PutComponent is a component to be put into force.
type PutComponent struct {
	Spec        manifest.Component
	Digest      string
	FilesDigest string
}

// ComponentRef names a component.
type ComponentRef struct {
	Kind manifest.Kind `json:"kind"`
	Ref  string        `json:"ref"`
}

// Apply does all the changes in one transaction, recomputes the trigger instances that enabled
// rules ask for, raises the generation and notifies. Changes that do nothing but replace equal
// errors raise nothing. It gives the generation in force afterwards.
func (s *Store) Apply(ctx context.Context, changes []PackChange) (generation int64, err error) {
	return s.ApplyAs(ctx, "", changes)
}

// ApplyAs is Apply by the holder of the leader's lease: ErrNotHeld where the token of it counts no more
// when all has been done.
func (s *Store) ApplyAs(ctx context.Context, token string, changes []PackChange) (generation int64, err error) {
	rows, err := encodeChanges(changes)
	if err != nil {
		return 0, fmt.Errorf("cannot apply packs: %w", err)
	}
	err = s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		a := &apply{s: s, tx: tx, changed: map[int64]bool{}}
		if generation, err = a.run(ctx, rows); err != nil {
			return err
		}
		if err := s.audit(ctx, tx, changes); err != nil {
			return err
		}
		if err := s.doErrands(ctx, tx, changes); err != nil {
			return err
		}
		return s.checkLease(ctx, tx, LeaseLeader, token)
	})
	return generation, s.failed("apply packs", err)
}

// apply is one transaction.
type apply struct {
	s  *Store
	tx pgx.Tx
	// next is the generation that it will raise to, if anything changes.
	next    int64
	changed map[int64]bool // packs, by id
}

func (a *apply) run(ctx context.Context, rows *changeRows) (int64, error) {
	if err := a.begin(ctx); err != nil {
		return 0, err
	}
	for _, step := range []func(context.Context, *changeRows) error{
		a.checkBases,
		a.putPacks,
		a.storeFiles,
		a.addRevisions,
		a.lockGeneration, // everything that takes long is behind us
		a.putComponents,
		a.vanishComponents,
		a.followPacks,
		a.pinPacks,
	} {
		if err := step(ctx, rows); err != nil {
			return 0, err
		}
	}
	return a.end(ctx)
}

// begin takes turns with other applies and finds out which generation comes next.
func (a *apply) begin(ctx context.Context) error {
	if _, err := collect(ctx, a.s, a.tx, "LockCatalog", pgx.StrictNamedArgs{"key": int64(lockCatalog)}, pgx.RowTo[any]); err != nil {
		return err
	}
	if err := a.s.planForIndexes(ctx, a.tx); err != nil {
		return err
	}
	numbers, err := collect(ctx, a.s, a.tx, "Generation", nil, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	if len(numbers) != 1 {
		return errors.New("attune.generation must have one row")
	}
	a.next = numbers[0] + 1
	return nil
}

// end raises the generation, if anything changed, and gives the one in force.
func (a *apply) end(ctx context.Context) (int64, error) {
	if len(a.changed) == 0 {
		return a.next - 1, nil
	}
	if err := a.placeRules(ctx); err != nil {
		return 0, err
	}
	_, err := collect(ctx, a.s, a.tx, "RaiseGeneration", pgx.StrictNamedArgs{
		"generation": a.next,
		"pack_ids":   a.packIDs(),
	}, pgx.RowTo[any])
	return a.next, err
}

func (a *apply) packIDs() []int64 { return slices.Sorted(maps.Keys(a.changed)) }

// touch runs a query that gives the ids of the packs that it changed.
func (a *apply) touch(ctx context.Context, name string, args pgx.StrictNamedArgs) error {
	ids, err := collect(ctx, a.s, a.tx, name, args, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for _, id := range ids {
		a.changed[id] = true
	}
	return nil
}

// checkBases refuses what was made from rows that are others now. All who change packs take turns, so
// they stay what they are until the end.
func (a *apply) checkBases(ctx context.Context, rows *changeRows) error {
	if len(rows.bases.refs) == 0 {
		return nil
	}
	moved, err := collect(ctx, a.s, a.tx, "MovedPacks", pgx.StrictNamedArgs{
		"refs": rows.bases.refs, "bases": rows.bases.generations,
	}, pgx.RowTo[string])
	if err == nil && len(moved) > 0 {
		err = &MovedError{moved}
	}
	return err
}

func (a *apply) putPacks(ctx context.Context, rows *changeRows) error {
	p := &rows.packs
	return a.touch(ctx, "PutPacks", pgx.StrictNamedArgs{
		"generation":  a.next,
		"refs":        p.refs,
		"directories": p.directories,
		"vanished":    p.vanished,
		"errors":      p.errors,
		"manifests":   p.manifests,
		"digests":     p.digests,
	})
}

// storeFiles keeps the files of new revisions that the database lacks, each once.
func (a *apply) storeFiles(ctx context.Context, rows *changeRows) error {
	if len(rows.content) == 0 {
		return nil
	}
	missing, err := collect(ctx, a.s, a.tx, "MissingFiles", pgx.StrictNamedArgs{
		"digests": slices.Sorted(maps.Keys(rows.content)),
	}, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var digests []string
	var sizes []int64
	var contents [][]byte
	held := 0
	flush := func() error {
		if len(digests) == 0 {
			return nil
		}
		_, err := collect(ctx, a.s, a.tx, "PutFiles", pgx.StrictNamedArgs{
			"digests": digests, "sizes": sizes, "contents": contents,
		}, pgx.RowTo[any])
		digests, sizes, contents, held = nil, nil, nil, 0
		return err
	}
	for _, digest := range missing {
		content, err := rows.content[digest](digest)
		if err != nil {
			return fmt.Errorf("cannot read the file %s: %w", digest, err)
		}
		if got := digestOf(content); got != digest {
			return fmt.Errorf("cannot store the file %s: it has digest %s, so it changed after it was scanned", digest, got)
		}
		packed := a.s.packer.EncodeAll(content, nil)
		digests, sizes, contents = append(digests, digest), append(sizes, int64(len(content))), append(contents, packed)
		if held += len(packed); held >= chunkBytes || len(digests) >= chunkRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func (a *apply) addRevisions(ctx context.Context, rows *changeRows) error {
	r := &rows.revisions
	if len(r.refs) == 0 {
		return nil
	}
	err := a.touch(ctx, "AddRevisions", pgx.StrictNamedArgs{
		"refs":     r.refs,
		"digests":  r.digests,
		"versions": r.versions,
		"causes":   r.causes,
		"changes":  r.changes,
		"trees":    r.trees,
	})
	if err != nil {
		return err
	}
	_, err = collect(ctx, a.s, a.tx, "NotePacks", pgx.StrictNamedArgs{"pack_ids": a.packIDs(), "generation": a.next}, pgx.RowTo[any])
	return err
}

func (a *apply) lockGeneration(ctx context.Context, _ *changeRows) error {
	_, err := collect(ctx, a.s, a.tx, "LockGeneration", nil, pgx.RowTo[int64])
	return err
}

func (a *apply) putComponents(ctx context.Context, rows *changeRows) error {
	for _, kind := range manifest.ComponentKinds() {
		for part := range rows.put[kind].chunks() {
			err := a.touch(ctx, ofKind("PutKIND", kind), pgx.StrictNamedArgs{
				"generation":    a.next,
				"refs":          part.refs,
				"packs":         part.packs,
				"files":         part.files,
				"manifests":     part.manifests,
				"digests":       part.digests,
				"files_digests": part.filesDigests,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *apply) vanishComponents(ctx context.Context, rows *changeRows) error {
	for _, kind := range manifest.ComponentKinds() {
		if len(rows.disable[kind]) == 0 && len(rows.vanished) == 0 {
			continue
		}
		err := a.touch(ctx, ofKind("VanishKIND", kind), pgx.StrictNamedArgs{
			"generation":     a.next,
			"refs":           rows.disable[kind],
			"vanished_packs": rows.vanished,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// followPacks carries a pack's own switch to its components.
func (a *apply) followPacks(ctx context.Context, rows *changeRows) error {
	return a.follow(ctx, rows.packs.refs)
}

func (a *apply) follow(ctx context.Context, packs []string) error {
	for _, kind := range manifest.ComponentKinds() {
		err := a.touch(ctx, ofKind("FollowPackKIND", kind), pgx.StrictNamedArgs{
			"generation": a.next,
			"packs":      packs,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *apply) pinPacks(ctx context.Context, rows *changeRows) error {
	p := &rows.pins
	if len(p.refs) == 0 {
		return nil
	}
	return a.touch(ctx, "PinPacks", pgx.StrictNamedArgs{
		"refs": p.refs, "pinned": p.pinned, "pinned_by": p.by, "reasons": p.reasons,
	})
}

type ruleToPlace struct {
	ID         int64
	Ref        string
	TriggerRef string
	Parameters map[string]any
	InstanceID string
}

// placeRules tells each changed rule, and each rule of a changed trigger, its trigger instance, and
// activates and deactivates the instances that this concerns.
func (a *apply) placeRules(ctx context.Context) error {
	changed := pgx.StrictNamedArgs{"generation": a.next, "pack_ids": a.packIDs()}
	rules, err := collect(ctx, a.s, a.tx, "RulesToPlace", changed, pgx.RowToStructByName[ruleToPlace])
	if err != nil || len(rules) == 0 {
		return err
	}
	triggers, err := a.triggersOf(ctx, rules)
	if err != nil {
		return err
	}
	var placed placedRules
	for _, rule := range rules {
		if err := placed.add(rule, triggers[rule.TriggerRef]); err != nil {
			return err
		}
	}
	_, err = collect(ctx, a.s, a.tx, "PutInstances", pgx.StrictNamedArgs{
		"ids": placed.newIDs, "trigger_refs": placed.newTriggers, "parameters": placed.newParameters,
	}, pgx.RowTo[any])
	if err != nil {
		return err
	}
	_, err = collect(ctx, a.s, a.tx, "PlaceRules", pgx.StrictNamedArgs{
		"ids": placed.rules, "instance_ids": placed.instances, "parameters": placed.parameters,
	}, pgx.RowTo[any])
	if err != nil {
		return err
	}
	_, err = collect(ctx, a.s, a.tx, "ActivateInstances", pgx.StrictNamedArgs{"ids": placed.touched}, pgx.RowTo[any])
	return err
}

func (a *apply) triggersOf(ctx context.Context, rules []ruleToPlace) (map[string]*manifest.Trigger, error) {
	refs := map[string]bool{}
	for _, rule := range rules {
		refs[rule.TriggerRef] = true
	}
	manifests, err := collect(ctx, a.s, a.tx, "TriggerManifests", pgx.StrictNamedArgs{
		"refs": slices.Sorted(maps.Keys(refs)),
	}, pgx.RowTo[json.RawMessage])
	if err != nil {
		return nil, err
	}
	triggers := map[string]*manifest.Trigger{}
	for _, data := range manifests {
		var trigger manifest.Trigger
		if err := json.Unmarshal(data, &trigger); err != nil {
			return nil, fmt.Errorf("cannot read a stored trigger: %w", err)
		}
		triggers[trigger.Ref] = &trigger
	}
	return triggers, nil
}

// placedRules are the columns of three statements.
type placedRules struct {
	rules                              []int64
	instances, parameters              []string
	newIDs, newTriggers, newParameters []string
	touched                            []string // instances that rules left or came to
}

// add computes the instance of one rule; a rule whose trigger does not exist has none.
func (p *placedRules) add(rule ruleToPlace, trigger *manifest.Trigger) error {
	if rule.InstanceID != "" {
		p.touched = append(p.touched, rule.InstanceID)
	}
	p.rules = append(p.rules, rule.ID)
	if trigger == nil {
		p.instances, p.parameters = append(p.instances, ""), append(p.parameters, "")
		return nil
	}
	id, canonical := trigger.Instance(rule.Ref, rule.Parameters)
	identity, err := json.Marshal(canonical)
	if err != nil {
		return fmt.Errorf("cannot encode the parameters of %s: %w", id, err)
	}
	given := trigger.Spread(rule.Ref, rule.Parameters)
	if trigger.ParametersSchema != nil {
		given = trigger.ParametersSchema.ApplyDefaults(given)
	}
	whole, err := encodeObject(given)
	if err != nil {
		return fmt.Errorf("cannot encode the parameters of %s: %w", id, err)
	}
	if string(identity) == "null" {
		identity = []byte("{}")
	}
	p.instances, p.parameters = append(p.instances, id), append(p.parameters, whole)
	p.newIDs = append(p.newIDs, id)
	p.newTriggers = append(p.newTriggers, trigger.Ref)
	p.newParameters = append(p.newParameters, string(identity))
	p.touched = append(p.touched, id)
	return nil
}

// digestOf is the hex SHA-256 by which files and normal forms are known.
func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
