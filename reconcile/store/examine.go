package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ServerExamination is what a server tells of itself, as far as it decides how well Attune lives on it.
type ServerExamination struct {
	VersionNumber int    `db:"version_number" json:"version_number"` // 150018
	Version       string `db:"version" json:"version"`               // "15.18"
	Encoding      string `db:"encoding" json:"encoding"`
	// ReadOnly says that it is a standby, or takes no writes by default.
	ReadOnly          bool   `db:"read_only" json:"read_only"`
	SynchronousCommit string `db:"synchronous_commit" json:"synchronous_commit"`
	Fsync             bool   `db:"fsync" json:"fsync"`
	FullPageWrites    bool   `db:"full_page_writes" json:"full_page_writes"`
	Autovacuum        bool   `db:"autovacuum" json:"autovacuum"`
	// Connections is how many a role that is no superuser may open in all, Connected how many there are,
	// and OwnConnected those of them that are Attune's by this role.
	Connections  int `db:"connections" json:"connections"`
	Connected    int `db:"connected" json:"connected"`
	OwnConnected int `db:"own_connected" json:"own_connected"`

	Role string `db:"role" json:"role"`
	// MayCreate says that the role may create schemas; OwnsSchema, that it may migrate the one there is.
	MayCreate bool `db:"may_create" json:"may_create"`
	HasSchema bool `db:"has_schema" json:"has_schema"`
	// OwnsSchema says that the role is the schema's owner, or one of its members.
	OwnsSchema bool `db:"owns_schema" json:"owns_schema"`
	// MissingPrivileges are tables that the role may not use, each with what it lacks.
	MissingPrivileges []string `db:"missing_privileges" json:"missing_privileges"`
	SchemaVersion     int64    `db:"-" json:"schema_version"` // 0: it was never migrated
	NewestVersion     int64    `db:"-" json:"newest_version"` // that this binary knows

	SizeBytes int64 `db:"size_bytes" json:"size_bytes"`
	MaySeeWAL bool  `db:"may_see_wal" json:"-"`
	// WALBytes is the size of the write-ahead log; nil: the role may not see it.
	WALBytes *int64 `db:"-" json:"wal_bytes"`
	// IdleSlots are replication slots that nobody reads, for which the log is kept for ever.
	IdleSlots []string `db:"idle_slots" json:"idle_slots"`
	// OldestSeconds is the age of the oldest open transaction.
	OldestSeconds float64 `db:"oldest_seconds" json:"oldest_seconds"`
	// DaysAhead is for how many days the partitions of the history are made already.
	DaysAhead int `db:"-" json:"days_ahead"`

	// Between says that another program stands between: the process that answers is not the one that was
	// connected to.
	Between bool  `db:"-" json:"between"`
	Backend int64 `db:"backend" json:"-"`
	// ClockSeconds is by how much the server's clock is ahead of this machine's, to half of RoundTripSeconds.
	ClockSeconds     float64 `db:"-" json:"clock_seconds"`
	RoundTripSeconds float64 `db:"-" json:"round_trip_seconds"`
}

// ConnectionsOfNode is how many connections one daemon opens at most.
const ConnectionsOfNode = defaultMaxConns + hotConns + 1

// Examine asks the server of a database for what decides how well Attune lives on it, and changes nothing.
// It also works with a schema of any version, with none, and with a server that Open refuses.
func Examine(ctx context.Context, url string) (found *ServerExamination, err error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	config, err := poolConfig(url, Options{Pooler: PoolerTransaction}) // what a pooler refuses is not asked for
	if err != nil {
		return nil, err
	}
	queries, err := loadQueries()
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.ConnConfig.ValidateConnect = nil // that it is read-only is a finding, too
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	found, err = examine(ctx, conn, queries)
	if err != nil {
		return nil, fmt.Errorf("cannot examine the database: %w", err)
	}
	return found, nil
}

func examine(ctx context.Context, conn *pgx.Conn, queries queries) (*ServerExamination, error) {
	// The first statement also reads the catalogs for the first time, which is no time of the way there.
	if err := conn.Ping(ctx); err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, queries.get("Examine"))
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[ServerExamination])
	if err != nil {
		return nil, err
	}
	if err := found.compareClocks(ctx, conn); err != nil {
		return nil, err
	}
	found.Between = found.Backend != int64(conn.PgConn().PID())
	if found.NewestVersion, err = newestMigration(); err != nil {
		return nil, err
	}
	var isMigrated bool
	if err := conn.QueryRow(ctx, queries.get("SchemaExists")).Scan(&isMigrated); err != nil {
		return nil, err
	}
	if isMigrated {
		err = errors.Join(
			conn.QueryRow(ctx, queries.get("SchemaVersion")).Scan(&found.SchemaVersion),
			conn.QueryRow(ctx, queries.get("HistoryAhead")).Scan(&found.DaysAhead),
		)
		// A role that may not even read is one that lacks privileges, which is told as such.
		if err != nil && len(found.MissingPrivileges) == 0 {
			return nil, err
		}
	}
	if found.MaySeeWAL {
		if err := conn.QueryRow(ctx, queries.get("WALSize")).Scan(&found.WALBytes); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// compareClocks takes the quickest of a few answers: what the way there took cannot be told from a difference.
func (e *ServerExamination) compareClocks(ctx context.Context, conn *pgx.Conn) error {
	const tries = 3
	for i := range tries {
		sent := time.Now()
		var clock time.Time
		if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&clock); err != nil {
			return err
		}
		took := time.Since(sent)
		if i == 0 || took.Seconds() < e.RoundTripSeconds {
			e.RoundTripSeconds = took.Seconds()
			e.ClockSeconds = clock.Sub(sent.Add(took / 2)).Seconds()
		}
	}
	return nil
}

// Examine is Examine of the server that this store talks to.
func (s *Store) Examine(ctx context.Context) (*ServerExamination, error) {
	return Examine(ctx, s.url)
}
