// Package storetest gives each test a migrated database of its own on a real PostgreSQL. The server is
// private to the test binary: started at first need, without fsync, and stopped at the end. With
// ATTUNE_TEST_DATABASE_URL set, the databases are made on that server instead.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/postgres"
	"github.com/attune-io/attune/reconcile/store"
)

// RaceVariable and RaceOptions are for the environment of the programs that tests start of themselves: with
// the race detector in it, a program ends at its first finding, where the test notices it, and does not
// sleep for a second each time it ends. They mean nothing to a program without.
const (
	RaceVariable = "GORACE"
	RaceOptions  = "atexit_sleep_ms=0 halt_on_error=1"
)

const (
	serverVariable = "ATTUNE_TEST_DATABASE_URL"
	// patience bounds what should take a second, on a machine that others load.
	patience = 2 * time.Minute
)

// shared is the server of this test binary. It is a variable of the package, because nothing but the
// process is common to all of its tests.
var shared server

type server struct {
	once     sync.Once
	err      error
	inMain   bool
	dir      string
	runner   *child.Runner
	cluster  *postgres.Cluster
	url      string
	template string
	strategy string // of copying the template
	count    atomic.Int64
}

// Main is what TestMain calls: it runs the tests, stops the server, looks for goroutines that were
// left behind, and ends the process. It also lets the test binary be the keeper of its own children.
func Main(m *testing.M, leaks ...goleak.Option) {
	os.Exit(Wrap(m, leaks...).Run())
}

// Tests are the tests of a binary with what Main does around them, for a TestMain that has to hand
// something runnable on.
type Tests struct {
	m     *testing.M
	leaks []goleak.Option
	last  func()
}

// Wrap prepares what Main does.
func Wrap(m *testing.M, leaks ...goleak.Option) Tests {
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		os.Exit(child.RunKeeper())
	}
	shared.inMain = true
	if err := os.Setenv(RaceVariable, RaceOptions); err != nil { // too late for this process, in time for its children
		panic(err)
	}
	passSignalsOn()
	return Tests{m: m, leaks: leaks}
}

// passSignalsOn lets what tests start be interrupted, also where the tests themselves are not: a shell starts what
// runs in the background with SIGINT ignored, nohup with SIGHUP, and that is inherited, unless it is caught here.
func passSignalsOn() {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // which nobody reads: here it stays ignored
		}
	}
}

// Last runs a function after all tests, while the server still is there: for what several tests shared.
func (t Tests) Last(f func()) Tests {
	t.last = f
	return t
}

// Run runs the tests and gives the exit code.
func (t Tests) Run() int {
	code := t.m.Run()
	if t.last != nil {
		t.last()
	}
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "storetest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := errors.Join(goleak.Find(t.leaks...), leftInotify()); err != nil {
			fmt.Fprintln(os.Stderr, "storetest:", err)
			code = 1
		}
	}
	return code
}

// leftInotify is an error where inotify instances were left open. A user has 128 of them, for all processes: tests
// that keep theirs take them from those of other packages, which then hear of no change.
func leftInotify() error {
	names, err := filepath.Glob("/proc/self/fd/*")
	left := 0
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil && target == "anon_inode:inotify" {
			left++
		}
	}
	if left > 0 {
		err = fmt.Errorf("%d inotify instances were not closed", left)
	}
	return err
}

// New gives a store on a migrated database of the test's own.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, NewURL(t))
}

// Open opens a store that is closed with the test.
func Open(t testing.TB, url string, edit ...func(*store.Options)) *store.Store {
	t.Helper()
	opts := store.Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, e := range edit {
		e(&opts)
	}
	s, err := store.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// NewURL makes a migrated database, which is dropped with the test, and gives its URL.
func NewURL(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func() string { return " TEMPLATE " + shared.template + shared.strategy })
}

// NewEmptyURL makes a database without the schema.
func NewEmptyURL(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func() string { return "" })
}

// Runtime makes a role that may do what a daemon does and no more, which goes with the test, and gives the URL
// of the database for it.
func Runtime(t testing.TB, owner string) string {
	t.Helper()
	role := fmt.Sprintf("attune_runtime_%d_%d", os.Getpid(), shared.count.Add(1))
	if err := shared.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'runtime'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What it was granted goes with it, before the database does.
		if err := errors.Join(execOn(owner, "DROP OWNED BY "+role), shared.exec("DROP ROLE "+role)); err != nil {
			t.Error(err)
		}
	})
	if err := Open(t, owner).Grant(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(owner)
	if err != nil || u.Scheme == "" {
		return owner + " user=" + role + " password=runtime"
	}
	u.User = url.UserPassword(role, "runtime")
	return u.String()
}

// Exec runs SQL on a database, for what the store has no method for: looking behind its back, or
// breaking things.
func Exec(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	conn := Connect(t, url)
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// TryConnect is Connect where no answer is an answer; who asks closes the connection.
func TryConnect(ctx context.Context, url string) (*pgx.Conn, error) { return pgx.Connect(ctx, url) }

// Connect opens a connection that is closed with the test.
func Connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Log("cannot close a connection:", err)
		}
	})
	return conn
}

func newDatabase(t testing.TB, options func() string) string {
	t.Helper()
	shared.once.Do(func() { shared.err = shared.start() })
	if shared.err != nil {
		t.Fatal("no database for tests: ", shared.err)
	}
	name := fmt.Sprintf("attune_test_%d_%d", os.Getpid(), shared.count.Add(1))
	if err := shared.exec("CREATE DATABASE " + name + options()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return withDatabase(shared.url, name)
}

// start finds or starts the server, and makes the template that all databases are copied from:
// migrating takes longer than copying.
func (s *server) start() (err error) {
	if !s.inMain {
		return errors.New("TestMain must call storetest.Main, which stops the server")
	}
	if s.url = os.Getenv(serverVariable); s.url == "" {
		if err := s.startPrivate(); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("attune_template_%d_%s", os.Getpid(), strings.ReplaceAll(uuid.NewString(), "-", ""))
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	template, err := store.Open(ctx, withDatabase(s.url, name), store.Options{})
	if err != nil {
		return err
	}
	// A template with a connection open cannot be copied.
	defer template.Close()
	if _, _, err := template.Migrate(ctx); err != nil {
		return err
	}
	s.template = name
	// Copying files takes a third of the time of writing their pages to the log, and dropping them then as well.
	// Before 15 there is nothing else.
	info, err := template.ServerInfo(ctx)
	if err != nil {
		return err
	}
	if major, _ := strconv.Atoi(strings.SplitN(info.Version, ".", 2)[0]); major >= 15 {
		s.strategy = " STRATEGY file_copy"
	}
	return nil
}

func (s *server) startPrivate() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.dir, err = os.MkdirTemp("", "attune-storetest-"); err != nil {
		return err
	}
	// Started by root, the server runs as another user, who must get to the folder inside.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	s.runner, err = child.NewRunner(ctx, child.Options{
		Binary:   binary,
		StateDir: filepath.Join(s.dir, "run"),
		Logger:   logger,
	})
	if err != nil {
		return err
	}
	s.cluster, err = postgres.Start(ctx, postgres.Options{
		Dir:    filepath.Join(s.dir, "postgres"),
		Runner: s.runner,
		Logger: logger,
		Unsafe: true,
		// Tests run side by side, and some start several daemons.
		MaxConnections: 400,
	})
	if err != nil {
		return err
	}
	s.url = s.cluster.URL()
	return nil
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	if s.template != "" {
		errs = append(errs, s.exec("DROP DATABASE "+s.template))
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Stop(ctx))
	}
	if s.runner != nil {
		errs = append(errs, s.runner.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// exec runs one statement on the server's own database.
func (s *server) exec(sql string) error { return execOn(s.url, sql) }

func execOn(address, sql string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("cannot run %q: %w", sql, err)
	}
	return nil
}

// withDatabase gives the URL of another database on the same server.
func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" {
		// A keyword string: the last mention of a keyword counts.
		return server + " dbname=" + name
	}
	u.Path = "/" + name
	return u.String()
}
