package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/postgres"
	"github.com/attune-io/attune/reconcile/store"
)

// patience bounds what should take a second or two, on a machine that others load.
const patience = 2 * time.Minute

// Lab is what benchmarks are made of: a folder, the daemon's binary, and one PostgreSQL as the daemon
// starts it. A scope of it gives back what was taken from it when it is closed.
type Lab struct {
	Dir        string
	Binary     string // of attune
	log        io.Writer
	server     string // URL
	postmaster int
	count      *atomic.Int64
	undo       []func()
}

func newLab(ctx context.Context, log io.Writer) (_ *Lab, err error) {
	lab := &Lab{log: log, count: new(atomic.Int64)}
	defer func() {
		if err != nil {
			lab.close()
		}
	}()
	if lab.Dir, err = os.MkdirTemp("", "attune-bench-"); err != nil {
		return nil, err
	}
	lab.Defer(func() { os.RemoveAll(lab.Dir) })
	// Started by root, the server runs as another user, who must get to the folder inside.
	if err := os.Chmod(lab.Dir, 0o711); err != nil {
		return nil, err
	}
	lab.Binary = filepath.Join(lab.Dir, "attune")
	if err := buildDaemon(ctx, lab.Binary); err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	runner, err := child.NewRunner(ctx, child.Options{Binary: lab.Binary, StateDir: filepath.Join(lab.Dir, "run"), Logger: logger})
	if err != nil {
		return nil, err
	}
	lab.Defer(func() { report(runner.Close()) })
	cluster, err := postgres.Start(ctx, postgres.Options{Dir: filepath.Join(lab.Dir, "postgres"), Runner: runner, Logger: logger})
	if err != nil {
		return nil, err
	}
	lab.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		report(cluster.Stop(ctx))
	})
	lab.server, lab.postmaster = cluster.URL(), cluster.PID()
	return lab, nil
}

// buildDaemon builds it as it is shipped, in its own module: this one does not know all that it needs.
func buildDaemon(ctx context.Context, binary string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/attune-io/attune").Output()
	if err != nil {
		return fmt.Errorf("cannot find Attune's module: %v; run this in contrib/bench", err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./daemon/attune")
	build.Dir = strings.TrimSpace(string(root))
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the daemon: %v\n%s", err, text)
	}
	return nil
}

// report tells what went wrong while giving back.
func report(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// scope gives a lab with the same machine and its own list of what is to be given back.
func (l *Lab) scope() *Lab {
	return &Lab{Dir: l.Dir, Binary: l.Binary, log: l.log, server: l.server, postmaster: l.postmaster, count: l.count}
}

// Defer has undo called when the scope is closed, the last first.
func (l *Lab) Defer(undo func()) { l.undo = append(l.undo, undo) }

func (l *Lab) close() {
	for _, undo := range slices.Backward(l.undo) {
		undo()
	}
	l.undo = nil
}

// Folder makes a folder that every user may pass through.
func (l *Lab) Folder() (string, error) {
	dir := filepath.Join(l.Dir, fmt.Sprint("f", l.count.Add(1)))
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
}

// Database makes an empty database and gives its URL.
func (l *Lab) Database(ctx context.Context) (string, error) {
	name := fmt.Sprint("bench_", l.count.Add(1))
	if err := l.serverExec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	l.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		report(l.serverExec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"))
	})
	u, err := url.Parse(l.server)
	if err != nil {
		return "", errors.New("cannot read the server's URL")
	}
	u.Path = "/" + name
	return u.String(), nil
}

func (l *Lab) serverExec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, l.server)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// Connect opens a connection to a database.
func (l *Lab) Connect(ctx context.Context, url string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	l.Defer(func() { _ = conn.Close(context.Background()) })
	return conn, nil
}

// Store opens a migrated database of Attune's.
func (l *Lab) Store(ctx context.Context, url string) (*store.Store, error) {
	s, err := store.Open(ctx, url, store.Options{Logger: slog.New(slog.NewTextHandler(l.log, nil))})
	if err != nil {
		return nil, err
	}
	l.Defer(s.Close)
	if _, _, err := s.Migrate(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Daemon is the real one, as a process, on a database of the lab's server.
type Daemon struct {
	Dir    string // has packs/, state/ and attune.toml
	URL    string // of its database
	PID    int
	Client *api.Client
	Store  *store.Store // of its database, for what a test does behind its back
	env    []string
	binary string
	out    io.Writer
	log    bytes.Buffer
	cmd    *exec.Cmd
	ended  chan struct{}
	edited []float64 // what edits have taken
}

// Daemon starts a daemon on a folder of packs. The files are named from packs/ on ("p/pack.yaml");
// config is what attune.toml has beside what the lab says. It returns when the daemon is ready.
func (l *Lab) Daemon(ctx context.Context, files map[string]string, config string) (*Daemon, error) {
	d, err := l.daemonOn(ctx, files, config)
	if err != nil {
		return nil, err
	}
	l.Defer(d.end)
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	d.Store, err = l.Store(ctx, d.URL)
	return d, err
}

// daemonOn prepares a daemon and does not start it.
func (l *Lab) daemonOn(ctx context.Context, files map[string]string, config string) (*Daemon, error) {
	dir, err := l.Folder()
	if err != nil {
		return nil, err
	}
	database, err := l.Database(ctx)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Dir: dir, URL: database, binary: l.Binary, out: l.log}
	if err := os.Mkdir(filepath.Join(dir, "packs"), 0o755); err != nil {
		return nil, err
	}
	for name, text := range files {
		path := filepath.Join(dir, "packs", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	socket := filepath.Join(dir, "s")
	// A table that config begins would swallow keys after it, so ours come by the environment.
	if err := os.WriteFile(filepath.Join(dir, "attune.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	d.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "NO_COLOR=1", "ATTUNE_CONFIG=" + filepath.Join(dir, "attune.toml"),
		"ATTUNE_DATABASE_URL=" + database, "ATTUNE_HTTP_LISTEN=", "ATTUNE_HTTP_SOCKET=" + socket,
		"ATTUNE_STATE_DIRECTORY=" + filepath.Join(dir, "state"), "ATTUNE_PACKS_DIRECTORY=" + filepath.Join(dir, "packs"),
		"ATTUNE_LOG_LEVEL=warn", "TMPDIR=" + os.TempDir(),
	}
	for _, name := range []string{"GOGC", "GOMAXPROCS", "GODEBUG"} { // to try what they do
		if value, ok := os.LookupEnv(name); ok {
			d.env = append(d.env, name+"="+value)
		}
	}
	if d.Client, err = api.NewSocketClient([]string{socket}); err != nil {
		return nil, err
	}
	l.Defer(d.Client.Close)
	return d, nil
}

// begin runs the daemon's process until it is ready.
func (d *Daemon) begin(ctx context.Context) error {
	cmd := exec.Command(d.binary, "daemon")
	cmd.Dir, cmd.Env = d.Dir, d.env
	cmd.Stdout = io.MultiWriter(&d.log, d.out)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	d.cmd, d.ended, d.PID = cmd, ended, cmd.Process.Pid
	return d.awaitReady(ctx, ended)
}

// end stops the daemon's process, if there is one.
func (d *Daemon) end() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
	d.cmd = nil
}

func (d *Daemon) awaitReady(ctx context.Context, ended <-chan struct{}) error {
	return Until(ctx, "the daemon is ready", func(ctx context.Context) (bool, error) {
		select {
		case <-ended:
			return false, fmt.Errorf("the daemon ended:\n%s", d.log.String())
		default:
		}
		status, err := d.Client.Status(ctx)
		return err == nil && status.Ready, nil
	})
}

// Attune runs a command of the daemon's.
func (d *Daemon) Attune(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Dir, cmd.Env = d.Dir, d.env
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run attune %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

// pollEvery is how exactly the end of a round is seen.
const pollEvery = 5 * time.Millisecond

// Until asks again and again until the answer is yes.
func Until(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, fmt.Errorf("waited in vain until %s", what))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if yes, err := done(ctx); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
