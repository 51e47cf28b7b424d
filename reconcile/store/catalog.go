package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/attune-io/attune/reconcile/manifest"
)

// PackRow is a row of the table pack.
type PackRow struct {
	ID        int64
	Ref       string
	Directory string // the packs directory that it was read from
	Enabled   bool   // in force: present, enabled by its manifest, not disabled by an operator
	Present   bool   // its files are there
	// ManifestEnabled is what pack.yaml says.
	ManifestEnabled bool
	DisabledBy      string // the operator who disabled it; empty: nobody did
	DisabledAt      *time.Time
	DisabledReason  string
	// PinnedBy is the operator who pinned it to its newest revision, whatever its folder says; empty:
	// the folder rules.
	PinnedBy     string
	PinnedAt     *time.Time
	PinnedReason string
	Manifest     *manifest.Pack
	// Digest is the digest of Manifest's normal form; RevisionID and Revision (its number) are the
	// newest applied revision, and TreeDigest that revision's digest.
	Digest     string
	RevisionID int64
	Revision   int
	TreeDigest string
	Errors     manifest.Errors // of the newest scan, warnings included
	// Generation is the one that last changed the pack, or anything in it.
	Generation int64
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Record is a row of action, trigger, sensor or rule.
type Record struct {
	ID      int64
	Kind    manifest.Kind
	Ref     string
	Pack    string
	File    string // its manifest inside the pack
	Enabled bool   // in force: the pack is enabled, and present, manifest and operator agree
	Present bool
	// ManifestEnabled is what the manifest says.
	ManifestEnabled bool
	DisabledBy      string
	DisabledAt      *time.Time
	DisabledReason  string
	// Digest is of the normal form; FilesDigest is of the files whose change concerns it (entry
	// point and libraries; the sensor's part of the restart key).
	Digest      string
	FilesDigest string
	// RevisionID is the revision that it runs from, and TreeDigest that revision's digest.
	RevisionID int64
	TreeDigest string
	// Instance is the trigger instance of a rule that gives its trigger secrets; empty where its trigger
	// tells it by what the rule gives.
	Instance string
	// Sealed says that what is secret of Spec could not be read: it is masked there, and Digest is that of
	// no manifest, so that its folder replaces it.
	Sealed error
	// SealedActions is Sealed where that concerns what a rule gives its actions: nothing may be run with it.
	SealedActions error
	Spec          manifest.Component
	CreatedAt     time.Time
	// UpdatedAt is when it last changed itself, or its files: not when the rest of its pack did.
	UpdatedAt time.Time
}

// Catalog is everything that the database has of packs and components at one generation, enabled or
// not. It is a snapshot: nobody changes it.
type Catalog struct {
	Generation int64
	Packs      map[string]*PackRow
	Actions    map[string]*Record
	Triggers   map[string]*Record
	Sensors    map[string]*Record
	Rules      map[string]*Record
	// members are the components by pack; nil in a catalog that was not loaded.
	members map[string][]*Record
}

// Members gives the components of a pack, in the order of ComponentKinds and by ref.
func (c *Catalog) Members(pack string) []*Record {
	if c.members != nil {
		return c.members[pack]
	}
	var members []*Record
	for _, kind := range manifest.ComponentKinds() {
		for _, record := range c.Records(kind) {
			if record.Pack == pack {
				members = append(members, record)
			}
		}
	}
	sortMembers(members)
	return members
}

func sortMembers(members []*Record) {
	kinds := manifest.ComponentKinds()
	slices.SortFunc(members, func(a, b *Record) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Ref, b.Ref))
	})
}

// Records gives the map of one component kind.
func (c *Catalog) Records(kind manifest.Kind) map[string]*Record {
	switch kind {
	case manifest.KindAction:
		return c.Actions
	case manifest.KindTrigger:
		return c.Triggers
	case manifest.KindSensor:
		return c.Sensors
	case manifest.KindRule:
		return c.Rules
	default:
		panic("store: no records of kind " + string(kind))
	}
}

// InForce gives the enabled and the disabled components that are present, as manifest.Check wants
// them.
func (c *Catalog) InForce() *manifest.Set {
	set := manifest.NewSet()
	for ref, pack := range c.Packs {
		if pack.Present && pack.Manifest != nil {
			set.Packs[ref] = pack.Manifest
		}
	}
	for _, kind := range manifest.ComponentKinds() {
		for _, record := range c.Records(kind) {
			if record.Present {
				set.Add(record.Spec)
			}
		}
	}
	return set
}

// newest is the newest catalog that anybody loaded from this store. All get their snapshots by way of it,
// so that those who ask, one after the other, for what an edit changed share what the first was given:
// with ten thousand packs, each copy of its own would take a hundred megabytes.
type newest struct {
	loading chan struct{} // held by the one who loads
	catalog *Catalog      // only with loading held
}

// Catalog loads the snapshot. With previous it loads only the packs that changed since, shares the rest,
// and gives previous itself where none did.
func (s *Store) Catalog(ctx context.Context, previous *Catalog) (*Catalog, error) {
	select {
	case s.newest.loading <- struct{}{}:
		defer func() { <-s.newest.loading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	base := previous
	if known := s.newest.catalog; base == nil || known != nil && known.Generation > base.Generation {
		base = known
	}
	if base != nil {
		// Mostly nothing has changed, and who asks before each pass waits for this.
		if number, err := s.generation(ctx, s.pool); err != nil || number == base.Generation {
			return base, s.failed("load the catalog", err)
		}
	}
	var next *Catalog
	// One snapshot of the database for six queries.
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := s.inTx(ctx, options, func(tx pgx.Tx) (err error) {
		next, err = s.loadCatalog(ctx, tx, base)
		return err
	})
	if err != nil {
		return nil, s.failed("load the catalog", err)
	}
	s.newest.catalog = next
	return next, nil
}

func emptyCatalog() *Catalog {
	return &Catalog{
		Generation: -1, Packs: map[string]*PackRow{}, Actions: map[string]*Record{}, Triggers: map[string]*Record{},
		Sensors: map[string]*Record{}, Rules: map[string]*Record{}, members: map[string][]*Record{},
	}
}

// generation gives the one in force.
func (s *Store) generation(ctx context.Context, db querier) (int64, error) {
	numbers, err := collect(ctx, s, db, "Generation", nil, pgx.RowTo[int64])
	if err == nil && len(numbers) != 1 {
		err = errNoGeneration
	}
	if err != nil {
		return 0, err
	}
	return numbers[0], nil
}

var errNoGeneration = errors.New("attune.generation must have one row")

// loadCatalog gives base with what changed after it; nil: everything.
func (s *Store) loadCatalog(ctx context.Context, tx pgx.Tx, base *Catalog) (*Catalog, error) {
	number, err := s.generation(ctx, tx)
	if err != nil {
		return nil, err
	}
	if base == nil || number < base.Generation {
		// Or else the database was put back to an older state: what was loaded of the lost one must go.
		base = emptyCatalog()
	}
	after := base.Generation
	if number == after {
		return base, nil
	}
	c := &Catalog{
		Generation: number, Packs: maps.Clone(base.Packs), Actions: maps.Clone(base.Actions),
		Triggers: maps.Clone(base.Triggers), Sensors: maps.Clone(base.Sensors), Rules: maps.Clone(base.Rules),
		members: maps.Clone(base.members),
	}
	var batch pgx.Batch
	if after >= 0 {
		// A few packs out of many: without a word the planner expects a third of all.
		s.queue(&batch, "HotSettings", nil)
	}
	args := pgx.StrictNamedArgs{"after": after}
	var packs []*PackRow
	s.queue(&batch, "LoadPacks", args).Query(func(rows pgx.Rows) (err error) {
		packs, err = pgx.CollectRows(rows, scanPack)
		for _, pack := range packs {
			c.Packs[pack.Ref] = pack
			c.members[pack.Ref] = nil // all that it has is loaded below
		}
		return err
	})
	sealed := map[string]sealedRule{}
	s.queue(&batch, "LoadSealedRules", args).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByName[sealedRule])
		for _, rule := range found {
			sealed[rule.Ref] = rule
		}
		return err
	})
	for _, kind := range manifest.ComponentKinds() {
		s.queue(&batch, ofKind("LoadKIND", kind), args).Query(func(rows pgx.Rows) error {
			found, err := pgx.CollectRows(rows, pgx.RowToStructByName[recordRow])
			if err != nil {
				return err
			}
			of := sealed
			if kind != manifest.KindRule {
				of = nil
			}
			records, err := s.decodeRecords(kind, found, of)
			if err != nil {
				return err
			}
			into := c.Records(kind)
			for _, record := range records {
				into[record.Ref] = record
				c.members[record.Pack] = append(c.members[record.Pack], record)
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	for _, pack := range packs {
		sortMembers(c.members[pack.Ref])
	}
	return c, nil
}

func scanPack(row pgx.CollectableRow) (*PackRow, error) {
	var p PackRow
	var spec, findings []byte
	err := row.Scan(
		&p.ID, &p.Ref, &p.Directory, &p.Enabled, &p.Present, &p.ManifestEnabled, &p.DisabledBy, &p.DisabledAt,
		&p.DisabledReason, &p.PinnedBy, &p.PinnedAt, &p.PinnedReason,
		&spec, &p.Digest, &p.RevisionID, &p.Revision, &p.TreeDigest, &findings, &p.Generation, &p.CreatedAt, &p.UpdatedAt,
	)
	if err != nil {
		return nil, err
	}
	if spec != nil {
		p.Manifest = new(manifest.Pack)
		if err := json.Unmarshal(spec, p.Manifest); err != nil {
			return nil, fmt.Errorf("cannot read the stored manifest of pack %s: %w", p.Ref, err)
		}
	}
	if err := json.Unmarshal(findings, &p.Errors); err != nil {
		return nil, fmt.Errorf("cannot read the stored errors of pack %s: %w", p.Ref, err)
	}
	return &p, nil
}

// recordRow is a Record before its manifest is decoded.
type recordRow struct {
	ID              int64
	Ref             string
	Pack            string
	File            string
	Enabled         bool
	Present         bool
	ManifestEnabled bool
	DisabledBy      string
	DisabledAt      *time.Time
	DisabledReason  string
	Digest          string
	FilesDigest     string
	RevisionID      int64
	TreeDigest      string
	Manifest        []byte
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

func (r *recordRow) decode(kind manifest.Kind) (*Record, error) {
	spec, err := manifest.Decode(kind, r.Manifest)
	if err != nil {
		return nil, fmt.Errorf("cannot read the stored manifest of %s %s: %w", kind, r.Ref, err)
	}
	// The normal form does not say where it came from, so that moving a file changes nothing.
	spec.Head().File = r.File
	return &Record{
		ID:              r.ID,
		Kind:            kind,
		Ref:             r.Ref,
		Pack:            r.Pack,
		File:            r.File,
		Enabled:         r.Enabled,
		Present:         r.Present,
		ManifestEnabled: r.ManifestEnabled,
		DisabledBy:      r.DisabledBy,
		DisabledAt:      r.DisabledAt,
		DisabledReason:  r.DisabledReason,
		Digest:          r.Digest,
		FilesDigest:     r.FilesDigest,
		RevisionID:      r.RevisionID,
		TreeDigest:      r.TreeDigest,
		Spec:            spec,
		CreatedAt:       r.CreatedAt,
		UpdatedAt:       r.UpdatedAt,
	}, nil
}

// decodeRecords uses all cores: at the first load of ten thousand packs this is most of the work.
func (s *Store) decodeRecords(kind manifest.Kind, rows []recordRow, sealed map[string]sealedRule) ([]*Record, error) {
	const share = 64 // rows to a goroutine, well above what starting one costs
	records := make([]*Record, len(rows))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for start := 0; start < len(rows); start += share {
		group.Go(func() error {
			for i := start; i < min(start+share, len(rows)); i++ {
				var err error
				if rule, ok := sealed[rows[i].Ref]; ok {
					records[i], err = s.openRule(rule, rows[i])
				} else {
					records[i], err = rows[i].decode(kind)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return records, group.Wait()
}

// RevisionRow is a row of revision, for history.
type RevisionRow struct {
	ID        int64     `json:"id"`
	Pack      string    `json:"pack"`
	Number    int       `json:"revision"`
	Version   string    `json:"version"`
	Digest    string    `json:"digest"`
	Cause     string    `json:"cause"`
	Changes   []string  `json:"changes"`
	CreatedAt time.Time `json:"created_at"`
}

// Revisions lists a pack's revisions, newest first.
func (s *Store) Revisions(ctx context.Context, pack string, limit int) ([]RevisionRow, error) {
	rows, err := collect(ctx, s, s.pool, "Revisions", pgx.StrictNamedArgs{
		"pack": pack,
		"most": limit,
	}, pgx.RowToStructByPos[RevisionRow])
	return rows, s.failed("list the revisions of pack "+pack, err)
}

// Revision gives one revision of a pack by its number, and its files; ErrNotFound.
func (s *Store) Revision(ctx context.Context, pack string, number int) (*RevisionRow, []TreeEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	r := new(RevisionRow)
	var tree []TreeEntry
	args := pgx.StrictNamedArgs{"pack": pack, "number": number}
	err := notFound(s.pool.QueryRow(ctx, s.queries.get("Revision"), args).Scan(
		&r.ID, &r.Pack, &r.Number, &r.Version, &r.Digest, &r.Cause, &r.Changes, &r.CreatedAt, &tree))
	if err != nil {
		return nil, nil, s.failed(fmt.Sprintf("read revision %d of pack %s", number, pack), err)
	}
	return r, tree, nil
}

// OlderRevisions takes packs with digests of their files, and gives for those whose files are not of
// the newest revision, but were of an older one, that one's number.
func (s *Store) OlderRevisions(ctx context.Context, digests map[string]string) (map[string]int, error) {
	var refs, wanted []string
	for _, ref := range slices.Sorted(maps.Keys(digests)) {
		refs, wanted = append(refs, ref), append(wanted, digests[ref])
	}
	type older struct {
		Ref    string
		Number int
	}
	rows, err := collect(ctx, s, s.pool, "OlderRevisions", pgx.StrictNamedArgs{
		"refs": refs, "digests": wanted,
	}, pgx.RowToStructByPos[older])
	if err != nil {
		return nil, s.failed("look for older revisions", err)
	}
	found := map[string]int{}
	for _, row := range rows {
		found[row.Ref] = row.Number
	}
	return found, nil
}

// RevisionTree gives the files of a revision and the ref of its pack; ErrNotFound.
func (s *Store) RevisionTree(ctx context.Context, revisionID int64) (pack string, tree []TreeEntry, err error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	args := pgx.StrictNamedArgs{"id": revisionID}
	err = notFound(s.pool.QueryRow(ctx, s.queries.get("RevisionTree"), args).Scan(&pack, &tree))
	return pack, tree, s.failed(fmt.Sprintf("read the files of revision %d", revisionID), err)
}

// FileContent gives a stored file by its digest; ErrNotFound.
func (s *Store) FileContent(ctx context.Context, digest string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	var size int64
	var packed []byte
	var sealed bool
	args := pgx.StrictNamedArgs{"digest": digest}
	err := notFound(s.pool.QueryRow(ctx, s.queries.get("FileContent"), args).Scan(&size, &packed, &sealed))
	if err != nil {
		return nil, s.failed("read the stored file "+digest, err)
	}
	if sealed {
		if packed, err = s.openFile(digest, string(packed)); err != nil {
			return nil, fmt.Errorf("cannot read the stored file %s: %w; a changed pack is stored anew", digest, err)
		}
	}
	content, err := s.opener.DecodeAll(packed, make([]byte, 0, min(size, maxFileSize)))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the stored file %s: %w", digest, err)
	}
	if got := digestOf(content); got != digest {
		return nil, fmt.Errorf("cannot use the stored file %s: its content has digest %s; reload its pack to store it anew", digest, got)
	}
	return content, nil
}

// notFound turns an empty answer into ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// Runtime is a row of runtime: an interpreter found on a node.
type Runtime struct {
	Name    string // shell, sh, python, node, native
	Path    string
	Version string
	Problem string // why it cannot be used; empty: it can
}

// PutRuntimes records what this node found, and forgets what it found before and no longer does.
func (s *Store) PutRuntimes(ctx context.Context, node string, found []Runtime) error {
	var names, paths, versions, problems []string
	for _, r := range found {
		names = append(names, cleanText(r.Name))
		paths = append(paths, cleanText(r.Path))
		versions = append(versions, cleanText(r.Version))
		problems = append(problems, cleanText(r.Problem))
	}
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("PutRuntimes"), pgx.StrictNamedArgs{
		"node":     node,
		"names":    names,
		"paths":    paths,
		"versions": versions,
		"problems": problems,
	})
	return s.failed("record the runtimes of node "+node, err)
}
