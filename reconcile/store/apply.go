package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
		a := newApply(s, tx)
		if err := a.run(ctx, rows); err != nil {
			return err
		}
		generation = a.end()
		a.audit(ctx, changes)
		a.doErrands(changes)
		a.checkLease(LeaseLeader, token)
		return a.send(ctx)
	})
	return generation, s.failed("apply packs", err)
}

// apply is one transaction. Its statements go in as few round trips as what they need of each other allows:
// an edit has little to do in each of them, and on a busy machine waits longest for its turn.
type apply struct {
	s  *Store
	tx pgx.Tx
	// next is the generation that it will raise to, if anything changes.
	next    int64
	changed map[int64]bool // packs, by id
	batch   *pgx.Batch     // what is sent next
	failure error          // what was found wrong by an answer, though the server did not
}

func newApply(s *Store, tx pgx.Tx) *apply {
	return &apply{s: s, tx: tx, changed: map[int64]bool{}, batch: &pgx.Batch{}}
}

// queue adds a statement to the next round trip.
func (a *apply) queue(name string, args pgx.StrictNamedArgs) *pgx.QueuedQuery {
	return a.s.queue(a.batch, name, args)
}

// send makes the round trip, within the time for maintenance or the context's if that is shorter.
func (a *apply) send(ctx context.Context) error {
	batch := a.batch
	a.batch = &pgx.Batch{}
	if batch.Len() > 0 {
		ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		defer cancel()
		if err := a.tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
	}
	return a.failure
}

func (a *apply) run(ctx context.Context, rows *changeRows) error {
	a.begin()
	a.checkBases(rows)
	if err := a.storeFiles(ctx, rows); err != nil {
		return err
	}
	a.putPacks(rows)
	a.addRevisions(rows)
	a.lockGeneration() // everything that takes long is behind us
	if err := a.putComponents(ctx, rows); err != nil {
		return err
	}
	a.vanishComponents(rows)
	a.follow(rows.packs.refs)
	a.pinPacks(rows)
	return a.placeRules(ctx, rows)
}

// begin takes turns with other applies and finds out which generation comes next.
func (a *apply) begin() {
	a.queue("LockCatalog", pgx.StrictNamedArgs{"key": int64(lockCatalog)})
	a.queue("HotSettings", nil)
	a.queue("Generation", nil).QueryRow(func(row pgx.Row) error {
		var number int64
		err := row.Scan(&number)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNoGeneration
		}
		a.next = number + 1
		return err
	})
}

// end raises the generation, if anything changed, and gives the one in force afterwards.
func (a *apply) end() int64 {
	if len(a.changed) == 0 {
		return a.next - 1
	}
	a.queue("RaiseGeneration", pgx.StrictNamedArgs{"generation": a.next, "pack_ids": a.packIDs()})
	return a.next
}

func (a *apply) packIDs() []int64 { return slices.Sorted(maps.Keys(a.changed)) }

// touch queues a query that gives the ids of the packs that it changed.
func (a *apply) touch(name string, args pgx.StrictNamedArgs) {
	a.queue(name, args).Query(func(rows pgx.Rows) error {
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		for _, id := range ids {
			a.changed[id] = true
		}
		return err
	})
}

// checkBases refuses what was made from rows that are others now. All who change packs take turns, so
// they stay what they are until the end.
func (a *apply) checkBases(rows *changeRows) {
	if len(rows.bases.refs) == 0 {
		return
	}
	a.queue("MovedPacks", pgx.StrictNamedArgs{
		"refs": rows.bases.refs, "bases": rows.bases.generations,
	}).Query(func(found pgx.Rows) error {
		moved, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err == nil && len(moved) > 0 {
			a.failure = &MovedError{moved}
		}
		return err
	})
}

func (a *apply) putPacks(rows *changeRows) {
	p := &rows.packs
	a.touch("PutPacks", pgx.StrictNamedArgs{
		"generation":  a.next,
		"refs":        p.refs,
		"directories": p.directories,
		"vanished":    p.vanished,
		"errors":      p.errors,
		"manifests":   p.manifests,
		"digests":     p.digests,
	})
}

// storeFiles makes the first round trip, and keeps the files of new revisions that the database lacks, each
// once. They go by themselves only where they are many.
func (a *apply) storeFiles(ctx context.Context, rows *changeRows) error {
	var missing []string
	if len(rows.content) > 0 {
		a.queue("MissingFiles", pgx.StrictNamedArgs{
			"digests": slices.Sorted(maps.Keys(rows.content)), "keys": a.s.keyNames(),
		}).Query(func(found pgx.Rows) (err error) {
			missing, err = pgx.CollectRows(found, pgx.RowTo[string])
			return err
		})
	}
	if err := a.send(ctx); err != nil {
		return err
	}
	var digests []string
	var sizes []int64
	var contents [][]byte
	held := 0
	put := func() {
		if len(digests) > 0 {
			a.queue("PutFiles", pgx.StrictNamedArgs{"digests": digests, "sizes": sizes, "contents": contents})
		}
		digests, sizes, contents, held = nil, nil, nil, 0
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
			put()
			if err := a.send(ctx); err != nil {
				return err
			}
		}
	}
	put()
	return nil
}

func (a *apply) addRevisions(rows *changeRows) {
	r := &rows.revisions
	if len(r.refs) == 0 {
		return
	}
	a.touch("AddRevisions", pgx.StrictNamedArgs{
		"generation": a.next,
		"refs":       r.refs,
		"digests":    r.digests,
		"versions":   r.versions,
		"causes":     r.causes,
		"changes":    r.changes,
		"trees":      r.trees,
	})
}

func (a *apply) lockGeneration() { a.queue("LockGeneration", nil) }

func (a *apply) putComponents(ctx context.Context, rows *changeRows) error {
	for _, kind := range manifest.ComponentKinds() {
		parts := 0
		for part := range rows.put[kind].chunks() {
			if parts++; parts > 1 {
				if err := a.send(ctx); err != nil {
					return err
				}
			}
			a.touch(ofKind("PutKIND", kind), pgx.StrictNamedArgs{
				"generation":    a.next,
				"refs":          part.refs,
				"packs":         part.packs,
				"files":         part.files,
				"manifests":     part.manifests,
				"digests":       part.digests,
				"files_digests": part.filesDigests,
			})
		}
	}
	return nil
}

func (a *apply) vanishComponents(rows *changeRows) {
	for _, kind := range manifest.ComponentKinds() {
		if len(rows.disable[kind]) == 0 && len(rows.vanished) == 0 {
			continue
		}
		a.touch(ofKind("VanishKIND", kind), pgx.StrictNamedArgs{
			"generation":     a.next,
			"refs":           rows.disable[kind],
			"vanished_packs": rows.vanished,
		})
	}
}

// follow carries the packs' own switches to their components.
func (a *apply) follow(packs []string) {
	for _, kind := range manifest.ComponentKinds() {
		a.touch(ofKind("FollowPackKIND", kind), pgx.StrictNamedArgs{
			"generation": a.next,
			"packs":      packs,
		})
	}
}

func (a *apply) pinPacks(rows *changeRows) {
	p := &rows.pins
	if len(p.refs) == 0 {
		return
	}
	a.touch("PinPacks", pgx.StrictNamedArgs{
		"refs": p.refs, "pinned": p.pinned, "pinned_by": p.by, "reasons": p.reasons,
	})
}

// digestOf is the hex SHA-256 by which files and normal forms are known.
func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
