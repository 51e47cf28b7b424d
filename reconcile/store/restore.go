package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// asideSchema holds what a restore replaces until that is complete. While it is there no daemon starts.
const asideSchema = "attune_before_restore"

// Replacement is a restore's hold on a database: what was there stands aside, so that nothing is lost before
// what comes instead is whole, and no daemon starts in between.
type Replacement struct {
	conn    *pgx.Conn
	queries queries
	// hadSchema says that there is something to put back.
	hadSchema bool
}

// ErrOccupied says that a database has a schema already, which a restore would replace.
var ErrOccupied = errors.New("the database has a schema attune already")

// Replace sets aside what a database has of Attune's, for a restore to put another schema attune in its place.
// It refuses a database that a daemon is connected to, and without force one that has the schema (ErrOccupied).
// With force it also begins a restore anew that was broken off. The caller ends it by Keep or PutBack.
func Replace(ctx context.Context, url string, force bool) (*Replacement, error) {
	config, err := poolConfig(url, Options{Pooler: PoolerTransaction})
	if err != nil {
		return nil, err
	}
	r := &Replacement{}
	if r.queries, err = loadQueries(); err != nil {
		return nil, err
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.ConnConfig.RuntimeParams["application_name"] = "attune restore"
	if r.conn, err = pgx.ConnectConfig(ctx, config.ConnConfig); err != nil {
		return nil, fmt.Errorf("cannot reach the database: %w", err)
	}
	if err := r.begin(ctx, force); err != nil {
		return nil, errors.Join(err, r.conn.Close(context.WithoutCancel(ctx)))
	}
	return r, nil
}

func (r *Replacement) begin(ctx context.Context, force bool) error {
	// Two restores at once would take each other's half for the whole.
	var isAlone bool
	if err := r.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(lockMigration)).Scan(&isAlone); err != nil {
		return fmt.Errorf("cannot examine the database: %w", err)
	}
	if !isAlone {
		return errors.New("cannot replace the schema: another restore, or a migration, is under way")
	}
	var hasSchema, isUnfinished, mayCreate bool
	var role string
	var connected []string
	err := r.conn.QueryRow(ctx, r.queries.get("RestoreTarget")).Scan(&hasSchema, &isUnfinished, &mayCreate, &role, &connected)
	switch {
	case err != nil:
		return fmt.Errorf("cannot examine the database: %w", err)
	case len(connected) > 0:
		return fmt.Errorf("cannot replace the schema: a daemon is connected to the database (%s); stop it first, on every node", strings.Join(connected, "; "))
	case !mayCreate:
		return fmt.Errorf("cannot replace the schema: role %s may not create one; GRANT CREATE ON DATABASE … TO %s, or take the owner's database.url", role, role)
	case isUnfinished && !force:
		return errors.New("cannot replace the schema: a restore was broken off here; say --force to begin it anew")
	case isUnfinished:
		// What stands in its place is the half of a backup.
		r.hadSchema = true
		return r.drop(ctx, "attune")
	case hasSchema && !force:
		return ErrOccupied
	}
	if hasSchema {
		if err := r.mustBeDead(ctx); err != nil {
			return err
		}
	}
	step := "MarkRestore"
	if r.hadSchema = hasSchema; hasSchema {
		step = "SetAside"
	}
	if _, err := r.conn.Exec(ctx, r.queries.get(step)); err != nil {
		return fmt.Errorf("cannot set the schema aside: %w", err)
	}
	return nil
}

// mustBeDead refuses what nodes live on that are connected to it under another name, or by a pooler.
func (r *Replacement) mustBeDead(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, r.queries.get("NodesAlive"), pgx.StrictNamedArgs{"lease_seconds": LeaseDuration.Seconds()})
	if err == nil {
		var nodes []string
		if nodes, err = pgx.CollectRows(rows, pgx.RowTo[string]); len(nodes) > 0 {
			return fmt.Errorf("cannot replace the schema: a daemon lives on it (%s); stop it first; one that was killed is forgotten after %v", strings.Join(nodes, "; "), LeaseDuration)
		}
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeUndefinedTable {
		return nil // the schema is no whole one
	}
	return err
}

// Keep ends a restore that succeeded: nobody holds anything of what came, and what stood aside is dropped.
func (r *Replacement) Keep(ctx context.Context) error {
	_, err := r.conn.Exec(ctx, r.queries.get("ForgetHolders"))
	if err != nil {
		err = fmt.Errorf("cannot take back what nodes held: %w", err)
	}
	err = errors.Join(err, r.drop(ctx, asideSchema))
	return errors.Join(err, r.conn.Close(context.WithoutCancel(ctx)))
}

// PutBack ends a restore that failed: all is as it was before.
func (r *Replacement) PutBack(ctx context.Context) error {
	err := r.drop(ctx, "attune")
	if err == nil && r.hadSchema {
		_, err = r.conn.Exec(ctx, r.queries.get("PutBack"))
	} else if err == nil {
		err = r.drop(ctx, asideSchema)
	}
	if err != nil {
		err = fmt.Errorf("cannot put back what was there: %w; it is in schema %s", err, asideSchema)
	}
	return errors.Join(err, r.conn.Close(context.WithoutCancel(ctx)))
}

// drop drops a schema, its partitions one after the other: all at once they may be more than the server has
// locks for.
func (r *Replacement) drop(ctx context.Context, schema string) error {
	rows, err := r.conn.Query(ctx, r.queries.get("TablesOf"), pgx.StrictNamedArgs{"schema": schema})
	if err != nil {
		return fmt.Errorf("cannot drop schema %s: %w", schema, err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("cannot drop schema %s: %w", schema, err)
	}
	for _, table := range tables {
		if _, err := r.conn.Exec(ctx, "DROP TABLE "+table+" CASCADE"); err != nil {
			return fmt.Errorf("cannot drop table %s: %w", table, err)
		}
	}
	if _, err := r.conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
		return fmt.Errorf("cannot drop schema %s: %w", schema, err)
	}
	return nil
}

// NewestVersion is the version of the schema that this binary knows.
func NewestVersion() (int64, error) { return newestMigration() }

// checkRestore refuses a database in which a restore was broken off.
func (s *Store) checkRestore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var isUnfinished bool
	if err := s.pool.QueryRow(ctx, s.queries.get("RestoreUnfinished")).Scan(&isUnfinished); err != nil {
		return s.failed("look for a restore", err)
	}
	if isUnfinished {
		return fmt.Errorf("cannot use the database: a restore was broken off, or is under way; begin it anew (attune database restore FILE --force); what was there before is in schema %s", asideSchema)
	}
	return nil
}
