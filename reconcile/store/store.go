package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/seal"
)

// Errors that callers decide by.
var (
	ErrSchemaNewer  = errors.New("the database's schema is newer than this binary")
	ErrNotFound     = errors.New("not found")
	ErrServerTooOld = errors.New("PostgreSQL 14 or newer is needed")
)

// The two values of Options.Pooler.
const (
	PoolerNone        = "none"
	PoolerTransaction = "transaction"
)

const (
	// oldestServer is what generated columns, unnest of several arrays and gen_random_uuid need, with
	// the PostgreSQL project's own support as the second reason.
	oldestServer = 140000

	defaultMaxConns = 8
	// hotConns is for claims, starts, outcomes and renewals, one of each at a time, and for two groups of
	// events, of which one is inserted while the other is committed.
	hotConns = 6
	// minMaxConns: a matcher may load the catalog while its transaction holds a connection.
	minMaxConns = 4

	connectTimeout = 5 * time.Second
	// hotTimeout and cancelGrace make the 10 s after which a frozen server is given up.
	hotTimeout  = 9 * time.Second
	cancelGrace = time.Second
	// blameTimeout bounds the question who holds a lock.
	blameTimeout = time.Second
	// maintenanceTimeout is for statements that may touch all packs or a day of history.
	maintenanceTimeout = 60 * time.Second
	// tcpUserTimeout ends connections whose peer is gone without a word; the kernel's own default
	// is about 15 minutes.
	tcpUserTimeout = 10 * time.Second
	keepAlive      = 15 * time.Second

	// maxFileSize bounds what a stored file may unpack to; a revision has 64 MiB in all.
	maxFileSize = 64 << 20 // bytes
)

// Options are how a Store talks to its server.
type Options struct {
	// Pooler is "none" or "transaction" (PgBouncer: no prepared statements, no LISTEN). Defaults to
	// "none".
	Pooler string
	Logger *slog.Logger
	// MaxConns bounds the pool. Defaults to 8; at least 4.
	MaxConns int32
	// Seal encrypts what is secret among the parameters of an action before they are stored, whoever
	// queues it: it gives the parameters without, and secrets with the encrypted values by JSON
	// pointer. nil: parameters are stored as they are.
	Seal func(action string, parameters json.RawMessage, secrets map[string]string) (json.RawMessage, map[string]string, error)
	// Keys encrypt what rules give their triggers and actions and a schema calls secret; nil: it is stored as it is.
	Keys *seal.Keys
	// Concurrency gives the key by which an execution is counted; nil: none is.
	Concurrency KeyFunc
	// Now is the clock by which is told who else lives, and how long a look at the queue counts. Defaults to time.Now.
	Now func() time.Time
	// Registerer takes attune_db_reconnects_total, attune_db_failures_total, attune_db_older_total and
	// attune_concurrency_ended_total; nil: nobody counts.
	Registerer prometheus.Registerer
}

// Store is a pool of connections to one Attune database. It is safe for concurrent use.
type Store struct {
	url  string // with its password: never logged
	pool *pgxpool.Pool
	// hotPool has connections that plan for indexes only, for the statements of events and the queue; nil
	// behind a pooler, which takes no settings with a connection.
	hotPool *pgxpool.Pool
	pooler  string
	log     *slog.Logger
	metrics *metrics
	queries queries
	// finished counts outcomes since this store last vacuumed the queue.
	finished atomic.Int64
	// expired is when this store last looked for what had expired.
	expired atomic.Pointer[time.Time]
	// statements are the queries with numbered arguments.
	statements map[string]statement
	packer     *zstd.Encoder
	opener     *zstd.Decoder
	turn       turn
	heard      heard
	// nodeVigil and leaseVigil tell who lives, whatever the database's clock does; now is their clock, and the turn's.
	nodeVigil, leaseVigil vigil
	now                   func() time.Time
	// stuck are the attempts that the database does not let end.
	stuck   stuck
	actions actionCache
	newest  newest
	highest *highest
	seal    func(action string, parameters json.RawMessage, secrets map[string]string) (json.RawMessage, map[string]string, error)
	keys    *seal.Keys
	keyOf   KeyFunc
}

// Open connects, checks the server's version (14 or newer), and does not migrate. The URL's
// password never appears in an error.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	config, err := poolConfig(url, opts)
	if err != nil {
		return nil, err
	}
	queries, err := loadQueries()
	if err != nil {
		return nil, err
	}
	statements, err := queries.statements()
	if err != nil {
		return nil, err
	}
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("cannot make the compressor: %w", err)
	}
	opener, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFileSize))
	if err != nil {
		return nil, fmt.Errorf("cannot make the decompressor: %w", err)
	}
	metrics, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("cannot register metrics: %w", err)
	}
	log := cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	highest := &highest{queries: queries, log: log, found: metrics.older}
	config.AfterConnect = highest.look
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	hotPool, err := openHotPool(ctx, config, opts.Pooler)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	s := &Store{
		url: url, pool: pool, hotPool: hotPool,
		pooler:     cmp.Or(opts.Pooler, PoolerNone),
		log:        log,
		highest:    highest,
		metrics:    metrics,
		queries:    queries,
		statements: statements,
		packer:     packer,
		opener:     opener,
		newest:     newest{loading: make(chan struct{}, 1)},
		now:        opts.Now,
		seal:       opts.Seal,
		keys:       opts.Keys,
		keyOf:      opts.Concurrency,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.checkServer(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func poolConfig(url string, opts Options) (*pgxpool.Config, error) {
	switch opts.Pooler {
	case "", PoolerNone, PoolerTransaction:
	default:
		return nil, fmt.Errorf("cannot open the database: database.pooler is %q, expected %q or %q", opts.Pooler, PoolerNone, PoolerTransaction)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The cause would quote parts of the URL, and a mistyped password can be any part of it.
		return nil, errors.New("cannot read database.url: expected postgres://user:password@host:port/database?sslmode=verify-full, with characters like @ : / % in the password written as %40 %3A %2F %25")
	}
	config.MaxConns = max(cmp.Or(opts.MaxConns, defaultMaxConns), minMaxConns)
	conn := config.ConnConfig
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = connectTimeout
	}
	if conn.ValidateConnect == nil {
		// After a failover the old primary may still answer, read-only.
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	conn.DialFunc = (&net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive, Control: setTCPUserTimeout}).DialContext
	conn.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		// A statement that is given up must not commit later, when whatever held it lets go.
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: cancelGrace}
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "attune"
	}
	if opts.Pooler == PoolerTransaction {
		conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		return config, nil
	}
	// PgBouncer refuses a connection that asks for these.
	// Compiling a plan costs more than running any of ours, and many partitions make plans look dear.
	conn.RuntimeParams["jit"] = "off"
	// A frozen node must not hold the generation, and with it everybody's events.
	conn.RuntimeParams["idle_in_transaction_session_timeout"] = "60s"
	return config, nil
}

// openHotPool makes the pool of hotPool.
func openHotPool(ctx context.Context, config *pgxpool.Config, pooler string) (*pgxpool.Pool, error) {
	if pooler == PoolerTransaction {
		return nil, nil
	}
	hot := config.Copy()
	hot.MaxConns = hotConns
	maps.Copy(hot.ConnConfig.RuntimeParams, hotSettings())
	return pgxpool.NewWithConfig(ctx, hot)
}

// hotSettings are those of the statement HotSettings, for a connection that keeps them.
func hotSettings() map[string]string {
	return map[string]string{
		"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "enable_bitmapscan": "off",
		"plan_cache_mode": "force_generic_plan", "jit": "off",
	}
}

// setTCPUserTimeout makes a write to a dead peer fail in seconds.
func setTCPUserTimeout(network, _ string, raw syscall.RawConn) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(tcpUserTimeout.Milliseconds()))
	})
	return errors.Join(err, failed)
}

func (s *Store) checkServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var number int
	var version string
	err := s.pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::integer, current_setting('server_version')").Scan(&number, &version)
	if err != nil {
		return s.failed("reach the database", err)
	}
	if number < oldestServer {
		return fmt.Errorf("cannot use the database: the server is %s: %w", version, ErrServerTooOld)
	}
	return nil
}

// Close closes the pool.
func (s *Store) Close() {
	s.pool.Close()
	if s.hotPool != nil {
		s.hotPool.Close()
	}
	s.opener.Close()
}

// Installation is what tells this database from all others, for as long as it lives, also in a backup.
func (s *Store) Installation(ctx context.Context) (string, error) {
	found, err := list(ctx, s, "Installation", nil, pgx.RowTo[string])
	if err != nil || len(found) == 0 {
		return "", s.failed("read when the schema was made", err)
	}
	return found[0], nil
}

// ServerInfo describes the server for status and doctor.
type ServerInfo struct {
	Version       string // "15.18"
	SchemaVersion int64
	SizeBytes     int64
}

// ServerInfo asks the server about itself.
func (s *Store) ServerInfo(ctx context.Context) (*ServerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var info ServerInfo
	err := s.pool.QueryRow(ctx, s.queries.get("ServerInfo")).Scan(&info.Version, &info.SizeBytes)
	if err != nil {
		return nil, s.failed("ask the server about itself", err)
	}
	if info.SchemaVersion, err = s.schemaVersion(ctx); err != nil {
		return nil, err
	}
	return &info, nil
}

// Ping proves within the context's time that a statement can be run.
func (s *Store) Ping(ctx context.Context) error {
	return s.failed("reach the database", s.pool.Ping(ctx))
}

// hot sends statements as one transaction in one round trip, planned to use indexes only.
func (s *Store) hot(ctx context.Context, doing string, queue func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var batch pgx.Batch
	pool := s.hotPool
	if pool == nil {
		pool = s.pool
		batch.Queue(s.queries.get("HotSettings"))
	}
	queue(&batch)
	return s.failed(doing, pool.SendBatch(ctx, &batch).Close())
}

// inTx runs fn in a transaction. Beginning and ending it have their own time, so that a frozen server
// cannot hold a caller whose context has no end.
func (s *Store) inTx(ctx context.Context, options pgx.TxOptions, fn func(pgx.Tx) error) error {
	beginning, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	tx, err := s.pool.BeginTx(beginning, options)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit this does nothing. It must also work when ctx has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hotTimeout)
		defer cancel()
		if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			s.log.Debug("cannot roll back, the connection is dropped", "component", "store", "err", err)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	ending, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	return tx.Commit(ending)
}

// querier is what a pool, a connection and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// collect runs one named query within the time for maintenance, or the context's if that is shorter.
func collect[T any](ctx context.Context, s *Store, db querier, name string, args pgx.StrictNamedArgs, scan pgx.RowToFunc[T]) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	rows, err := db.Query(ctx, s.queries.get(name), args)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// list is collect for queries with optional filters: planned for the filters that are given, because
// one plan for all of them could use no index.
func list[T any](ctx context.Context, s *Store, name string, args pgx.StrictNamedArgs, scan pgx.RowToFunc[T]) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, s.queries.get(name), pgx.QueryExecModeCacheDescribe, args)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}
