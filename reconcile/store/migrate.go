package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	schemaTable = "attune.schema_version"
	// Advisory locks, "attune" in hex and a number.
	lockMigration   = 0x617474756e6501
	lockCatalog     = 0x617474756e6502
	lockMaintenance = 0x617474756e6503

	// A node that waits for another's migration looks each second, for five minutes at most.
	lockPeriod   = 1 // seconds
	lockAttempts = 300
)

// Migrate brings the schema up to this binary's version under an advisory lock. It gives
// ErrSchemaNewer, with both versions in the text, when the database is ahead.
func (s *Store) Migrate(ctx context.Context) (from, to int64, err error) {
	if err := s.checkRestore(ctx); err != nil {
		return 0, 0, err
	}
	if from, err = s.schemaVersion(ctx); err != nil {
		return 0, 0, err
	}
	if to, err = newestMigration(); err != nil {
		return from, 0, err
	}
	switch {
	case from == to:
		return from, to, nil
	case from > to:
		return from, to, fmt.Errorf("cannot migrate: %w: it has version %d, this binary knows up to %d; run the newer attune, or restore a backup from before", ErrSchemaNewer, from, to)
	case s.pooler == PoolerTransaction:
		return from, to, errors.New("cannot migrate through a transaction pooler, which keeps no lock of a session: run attune migrate once with a database.url that leads to PostgreSQL itself, and database.pooler = \"none\"")
	}
	if err := s.createSchema(ctx); err != nil {
		return from, to, s.failed("create the schema attune", ownerWanted(err))
	}
	if err := s.up(ctx, to); err != nil {
		return from, to, s.failed(fmt.Sprintf("migrate from version %d to %d", from, to), ownerWanted(err))
	}
	return from, to, nil
}

// createSchema makes the schema where it is missing; asking whether it is first, because a role that
// may not create schemas may still use one.
func (s *Store) createSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	return s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		// Two that create it at once would find that IF NOT EXISTS is not enough.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(lockMigration)); err != nil {
			return err
		}
		// to_regnamespace may answer from the session's cache, which does not hear of what was created while
		// this waited for the lock.
		const isMissing = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'attune')"
		var missing bool
		if err := tx.QueryRow(ctx, isMissing).Scan(&missing); err != nil {
			return err
		}
		if !missing {
			return nil
		}
		_, err := tx.Exec(ctx, "CREATE SCHEMA attune")
		return err
	})
}

// ErrNotOwner says that it takes the role that owns the schema.
var ErrNotOwner = errors.New("this role may not: run `attune migrate --grant ROLE` once with a database.url of the role that owns the schema")

// ownerWanted tells whoever lacks the right what to do.
func ownerWanted(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeInsufficientPrivilege {
		return fmt.Errorf("%w (%s)", ErrNotOwner, pg.Message)
	}
	return err
}

// Grant lets a role do what a daemon does while it runs: read and write rows, and neither make, change nor drop
// anything. The audit it can only add to, and the versions of the schema only read. It holds for what later
// migrations of the same owner make, too.
func (s *Store) Grant(ctx context.Context, role string) error {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	err := s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		for _, statement := range GrantStatements(role) {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	return s.failed("grant role "+role+" what a daemon needs", err)
}

// GrantStatements are those of Grant, for people to read.
func GrantStatements(role string) []string {
	to := pgx.Identifier{role}.Sanitize()
	statements := []string{
		"GRANT USAGE ON SCHEMA attune TO ROLE",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA attune TO ROLE",
		"REVOKE UPDATE, DELETE ON attune.audit FROM ROLE",
		"REVOKE INSERT, UPDATE, DELETE ON attune.schema_version FROM ROLE",
		"GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA attune TO ROLE",
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA attune TO ROLE",
		"ALTER DEFAULT PRIVILEGES IN SCHEMA attune GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ROLE",
		"ALTER DEFAULT PRIVILEGES IN SCHEMA attune GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO ROLE",
		"ALTER DEFAULT PRIVILEGES IN SCHEMA attune GRANT EXECUTE ON FUNCTIONS TO ROLE",
	}
	for i := range statements {
		statements[i] = strings.ReplaceAll(statements[i], "ROLE", to)
	}
	return statements
}

// up applies what is missing up to a version.
func (s *Store) up(ctx context.Context, to int64) (err error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(
		lock.WithLockID(lockMigration),
		lock.WithLockTimeout(lockPeriod, lockAttempts),
		lock.WithUnlockTimeout(lockPeriod, lockAttempts),
	)
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(s.pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(schemaTable),
		goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return err
	}
	_, err = provider.UpTo(ctx, to)
	return err
}

// schemaVersion is 0 for a database that was never migrated.
func (s *Store) schemaVersion(ctx context.Context) (version int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var exists bool
	if err := s.pool.QueryRow(ctx, s.queries.get("SchemaExists")).Scan(&exists); err != nil {
		return 0, s.failed("read the schema's version", err)
	}
	if !exists {
		return 0, nil
	}
	if err := s.pool.QueryRow(ctx, s.queries.get("SchemaVersion")).Scan(&version); err != nil {
		return 0, s.failed("read the schema's version", err)
	}
	return version, nil
}

// newestMigration is the highest number among the embedded files.
func newestMigration() (int64, error) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return 0, fmt.Errorf("cannot list migrations: %w", err)
	}
	var newest int64
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return 0, fmt.Errorf("cannot read the number of %s: %w", file, err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}
