package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// F106: the role that a daemon runs as can do all that a daemon does, and nothing to the schema itself.
func TestF106RuntimeRole(t *testing.T) {
	t.Parallel()
	owner := storetest.NewURL(t)
	limited := storetest.Runtime(t, owner)
	s := storetest.Open(t, limited)
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Errorf("a schema that is up to date: %v", err)
	}
	// Partitions are missing, and others are too old.
	storetest.Exec(t, owner, "SELECT attune.drop_partitions(ARRAY['event', 'enforcement', 'execution', 'attempt', 'output'], now() + interval '9 days')")
	storetest.Exec(t, owner, "SELECT attune.make_partitions(current_date - 40, current_date - 39)")
	report, err := s.Maintain(t.Context(), store.Retention{
		Events: 24 * time.Hour, Executions: 24 * time.Hour, Revisions: 1, Audit: 48 * time.Hour,
	})
	if err != nil || report.PartitionsMade < 15 || report.PartitionsDropped != 10 {
		t.Errorf("found %+v, %v; want partitions made and dropped", report, err)
	}
	if ids, err := s.EnqueueFor(t.Context(), &store.NewAudit{Actor: "ada", Action: "run action"}, []store.NewExecution{{Action: "a.x"}}); err != nil || len(ids) != 1 {
		t.Errorf("queued %v, %v", ids, err)
	}
	storetest.Exec(t, owner, "CREATE SCHEMA other")
	storetest.Exec(t, owner, "CREATE TABLE other.secret (x integer)")
	conn := storetest.Connect(t, limited)
	for _, statement := range []string{
		"CREATE TABLE attune.x (y integer)",
		"ALTER TABLE attune.queue ADD COLUMN x integer",
		"DROP TABLE attune.queue",
		"TRUNCATE attune.event",
		"CREATE INDEX x ON attune.event (id)",
		"CREATE FUNCTION attune.x() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
		"ALTER FUNCTION attune.make_partitions(date, date) SECURITY INVOKER",
		"CREATE SCHEMA y",
		"DELETE FROM attune.audit",
		"UPDATE attune.audit SET actor = 'nobody'",
		"DELETE FROM attune.schema_version",
		"SELECT x FROM other.secret",
	} {
		_, err := conn.Exec(t.Context(), statement)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" {
			t.Errorf("%s: %v, want it denied", statement, err)
		}
	}
	// What just happened cannot be wiped out.
	if n, err := pgx.CollectOneRow(rowsOf(t, conn, "SELECT attune.prune_audit(interval '0', 1000)"), pgx.RowTo[int]); err != nil || n != 0 {
		t.Errorf("%d rows of the audit went, %v", n, err)
	}
	// A later migration of the owner's is the role's as well.
	storetest.Exec(t, owner, "CREATE TABLE attune.later (x integer)")
	if _, err := conn.Exec(t.Context(), "INSERT INTO attune.later VALUES (1)"); err != nil {
		t.Errorf("what a later migration made: %v", err)
	}
	storetest.Exec(t, owner, "CREATE SEQUENCE attune.later_id")
	if _, err := conn.Exec(t.Context(), "SELECT nextval('attune.later_id')"); err != nil {
		t.Errorf("a sequence that a later migration made: %v", err)
	}
	// A schema that is behind is not the runtime role's to mend.
	storetest.Exec(t, owner, "DELETE FROM attune.schema_version WHERE version_id = (SELECT max(version_id) FROM attune.schema_version)")
	if _, _, err := s.Migrate(t.Context()); !errors.Is(err, store.ErrNotOwner) {
		t.Errorf("a schema that is behind: %v", err)
	}
}

func rowsOf(t *testing.T, conn *pgx.Conn, sql string) pgx.Rows {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
