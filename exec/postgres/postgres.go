package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/attune-io/attune/exec/child"
)

const (
	// role and database are the cluster's only ones of ours; the role is its superuser.
	role     = "attune"
	database = "attune"
	// port names the socket file; nothing listens on TCP.
	port = "5432"

	// readyPoll is how often the pid file is looked at while the server starts: it takes some 50 ms.
	readyPoll = 10 * time.Millisecond
	// progressAfter is when a start is worth telling about.
	progressAfter = time.Second

	// stopFast is how long an orderly stop may take (it writes a checkpoint), stopQuit how long one at
	// once, after which the server is killed and recovers at its next start.
	stopFast = 30 * time.Second
	stopQuit = 5 * time.Second

	// restartFirst doubles to restartMax and begins anew after restartHealthy.
	restartFirst   = 50 * time.Millisecond
	restartMax     = 10 * time.Second
	restartHealthy = time.Minute

	// logCheck is how often the log's size is looked at.
	logCheck = time.Minute
)

// Options are what a Cluster needs.
type Options struct {
	// Dir holds the cluster ("data"), its socket and its log.
	Dir    string
	Runner *child.Runner
	Logger *slog.Logger
	// Unsafe turns fsync off, for tests only: a kill of the server loses nothing, one of the machine does.
	Unsafe bool
	// MaxConnections, where set, stands above what the cluster's postgresql.conf says, for tests that
	// run many daemons on one server.
	MaxConnections int
	// Progress, where set, is told what takes long ("creating the database cluster", "recovering").
	Progress func(text string)
}

// Cluster is a running private server.
type Cluster struct {
	opts   Options
	logger *slog.Logger
	secret string
	bin    binaries

	mu      sync.Mutex
	layout  layout // only its socketDir changes, with a server that was taken over
	server  *server
	stopped bool
}

// Start creates the cluster where there is none, and starts it: after a crash of either it recovers,
// takes over a server that still runs from this directory, or removes a stale pid file. Errors say
// what is missing and how to get it: no server binaries, a cluster of another major version. ctx bounds
// the start, not the server's life.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Runner == nil || opts.Logger == nil || !filepath.IsAbs(opts.Dir) {
		return nil, errors.New("cannot start the private PostgreSQL: Options needs Runner, Logger and an absolute Dir")
	}
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	c := &Cluster{opts: opts, logger: opts.Logger.With("component", "postgres")}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("cannot start the private PostgreSQL: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	var err error
	if c.layout, err = prepareLayout(c.opts.Dir); err != nil {
		return err
	}
	unlock, err := c.layout.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if c.secret, err = c.layout.readSecret(); err != nil {
		return err
	}
	if c.bin, err = c.findBinaries(ctx); err != nil {
		return err
	}
	if !c.layout.exists() {
		if err := c.create(ctx); err != nil {
			return err
		}
	}
	srv, err := c.launch(ctx)
	if err != nil {
		return err
	}
	c.server = srv
	c.opts.Runner.WatchPostgres(srv.pid, c.layout.data)
	c.logger.Info("private database is ready", "pid", srv.pid, "version", c.bin.version, "socket", c.layout.socketDir, "adopted", srv.adopted())
	return nil
}

// findBinaries takes those of the cluster's version, or the newest for a new one.
func (c *Cluster) findBinaries(ctx context.Context) (binaries, error) {
	major, err := c.layout.major()
	if err != nil {
		return binaries{}, err
	}
	found := installedServers(ctx, c.opts.Runner, major)
	bin, err := choose(found, major, c.layout.data)
	if err != nil {
		return binaries{}, err
	}
	return bin, nil
}

// launch takes over the server that runs, or starts one.
func (c *Cluster) launch(ctx context.Context) (*server, error) {
	running, err := c.layout.runningServer()
	if err != nil {
		return nil, err
	}
	if running != nil {
		srv, err := c.adopt(ctx, running)
		if err != nil || srv != nil {
			return srv, err
		}
	}
	if err := c.layout.clearAway(ctx, c.logger); err != nil {
		return nil, err
	}
	return c.spawn(ctx)
}

// URL is the connection string of the database "attune". It holds the secret: it is never logged.
func (c *Cluster) URL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return address(c.layout.socketDir, c.secret)
}

// address is the connection string of the server at a socket.
func address(socketDir, secret string) string {
	query := url.Values{"host": {socketDir}, "port": {port}, "sslmode": {"disable"}}
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(role, secret),
		Path:   "/" + database,
		// libpq takes a plus sign as it is.
		RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20"),
	}
	return u.String()
}

// Version is the server's version, "15.18"; BinDir the folder of its programs (psql, pg_dump).
func (c *Cluster) Version() string { return c.bin.version }

// BinDir is where the server's programs are.
func (c *Cluster) BinDir() string { return c.bin.dir }

// PID is the postmaster's.
func (c *Cluster) PID() int { return c.current().pid }

func (c *Cluster) current() *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// Run watches the server and starts it again when it dies, until ctx ends; then it stops it (fast).
func (c *Cluster) Run(ctx context.Context) error {
	logs := time.NewTicker(logCheck)
	defer logs.Stop()
	for backoff := restartFirst; ; {
		srv := c.current()
		select {
		case <-ctx.Done():
			// The caller's context is over, the server's orderly stop is not.
			return c.Stop(context.WithoutCancel(ctx))
		case <-logs.C:
			c.layout.boundLog()
		case <-srv.gone:
			if c.isStopped() {
				return nil
			}
			if time.Since(srv.since) > restartHealthy {
				backoff = restartFirst
			}
			c.logger.Error("private database died, starting it again", "pid", srv.pid, "exit", srv.exit(), "last_log", c.layout.lastLog())
			backoff = c.restart(ctx, backoff)
		}
	}
}

// restart tries until the server answers or ctx ends, and gives the next backoff.
func (c *Cluster) restart(ctx context.Context, backoff time.Duration) time.Duration {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return backoff
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, restartMax)
		srv, err := c.launch(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.logger.Error("cannot start the private database again", "err", err)
			}
			continue
		}
		c.mu.Lock()
		c.server = srv
		c.mu.Unlock()
		c.opts.Runner.WatchPostgres(srv.pid, c.layout.data)
		c.logger.Info("private database is ready again", "pid", srv.pid)
		return backoff
	}
	return backoff
}

func (c *Cluster) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// Stop stops the server (fast: open transactions are rolled back) and waits. When ctx ends, or after 30
// s, it is stopped at once and recovers at its next start. The keeper is told that there is nothing left
// to stop.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	c.stopped = true
	srv := c.server
	c.mu.Unlock()
	begun := time.Now()
	if err := srv.stop(ctx); err != nil {
		return fmt.Errorf("cannot stop the private PostgreSQL: %w", err)
	}
	c.opts.Runner.WatchPostgres(0, "")
	c.logger.Info("private database stopped", "pid", srv.pid, "duration", time.Since(begun))
	return nil
}

// server is one postmaster: a child of ours, or one that an earlier run left.
type server struct {
	pid   int
	since time.Time
	gone  chan struct{} // closed when it has ended

	proc   *child.Process // nil: adopted
	handle *child.Handle  // nil: ours
}

func (s *server) adopted() bool { return s.handle != nil }

func (s *server) signal(sig syscall.Signal) error {
	if s.handle != nil {
		err := s.handle.Signal(sig)
		if errors.Is(err, os.ErrClosed) { // let go as it has ended
			return os.ErrProcessDone
		}
		return err
	}
	return s.proc.SignalLeader(sig)
}

// exit is for logs.
func (s *server) exit() string {
	if s.proc == nil {
		return "unknown, it was taken over"
	}
	return s.proc.Wait().String()
}

func (s *server) stop(ctx context.Context) error {
	fast, cancel := context.WithTimeout(ctx, stopFast)
	defer cancel()
	for _, step := range []struct {
		sig  syscall.Signal
		wait func() bool
	}{
		{syscall.SIGINT, func() bool { return s.endsWithin(fast) }},
		{syscall.SIGQUIT, func() bool { return s.endsIn(stopQuit) }},
		{syscall.SIGKILL, func() bool { return s.endsIn(stopQuit) }},
	} {
		if err := s.signal(step.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if step.wait() {
			return nil
		}
	}
	return fmt.Errorf("process %d: %w", s.pid, child.ErrUnkillable)
}

func (s *server) endsIn(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.endsWithin(ctx)
}

func (s *server) endsWithin(ctx context.Context) bool {
	select {
	case <-s.gone:
		return true
	case <-ctx.Done():
		return false
	}
}

// spawn starts a server and waits until it takes connections.
func (c *Cluster) spawn(ctx context.Context) (*server, error) {
	log, err := c.layout.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	proc, err := c.opts.Runner.Start(ctx, child.Spec{
		Name:      "private PostgreSQL",
		Path:      filepath.Join(c.bin.dir, "postgres"),
		Args:      serverArgs(c.layout, c.opts),
		Env:       c.env(),
		Dir:       c.layout.data,
		Stdout:    log,
		Stderr:    log,
		User:      c.layout.user,
		Unmanaged: true,
	})
	if err != nil {
		return nil, err
	}
	srv := &server{pid: proc.PID(), since: time.Now(), gone: make(chan struct{}), proc: proc}
	go func() {
		proc.Wait()
		close(srv.gone)
	}()
	if err := c.awaitReady(ctx, srv); err != nil {
		_ = srv.stop(ctx)
		return nil, err
	}
	return srv, nil
}

// adopt takes over a running server; nil without an error says that it ended meanwhile.
func (c *Cluster) adopt(ctx context.Context, found *pidFile) (*server, error) {
	h, err := child.OpenProcess(found.pid, found.start)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	srv := &server{pid: found.pid, since: time.Now(), gone: make(chan struct{}), handle: h}
	go func() {
		_ = h.Wait(context.Background())
		close(srv.gone)
		h.Close()
	}()
	err = c.awaitReady(ctx, srv)
	if errors.Is(err, errEnded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if found.socketDir != "" {
		c.mu.Lock()
		c.layout.socketDir = found.socketDir
		c.mu.Unlock()
	}
	return srv, nil
}

var errEnded = errors.New("the server ended")

// awaitReady polls the line of the pid file in which the server tells its state: no connection is needed.
func (c *Cluster) awaitReady(ctx context.Context, srv *server) error {
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	told := false
	for {
		f, err := readPIDFile(c.layout.pidFile())
		switch {
		case err == nil && f.pid == srv.pid && f.status == statusReady:
			return nil
		case err == nil && f.pid == srv.pid && !told && time.Since(srv.since) > progressAfter:
			told = true
			c.opts.Progress("recovering the database")
		}
		select {
		case <-poll.C:
		case <-srv.gone:
			return fmt.Errorf("%w (%s); its log %s ends with: %s", errEnded, srv.exit(), c.layout.log, c.layout.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer yet: %w", ctx.Err())
		}
	}
}

// env is the server's: a daemon's PG* variables are not for it.
func (c *Cluster) env() []string {
	e := child.NewEnv(c.layout.home(), "")
	list := e.List()
	return append(list, "LC_MESSAGES=C", "PGTZ=UTC")
}

// serverArgs are what must not be changed by hand, each start anew; what an operator may tune stands in
// the cluster's postgresql.conf.
func serverArgs(l layout, opts Options) []string {
	onOff := func(on bool) string {
		if on {
			return "on"
		}
		return "off"
	}
	args := []string{"-D", l.data}
	for _, s := range []string{
		"listen_addresses=",
		"port=" + port,
		"unix_socket_directories=" + quoteList(l.socketDir),
		"unix_socket_permissions=0700",
		"fsync=" + onOff(!opts.Unsafe),
		"synchronous_commit=on",
		"full_page_writes=" + onOff(!opts.Unsafe),
		"logging_collector=off",
		"log_destination=stderr",
		// Statements may hold secrets: neither they nor what failed in them is logged.
		"log_statement=none",
		"log_min_messages=log",
		"log_min_error_statement=panic",
	} {
		args = append(args, "-c", s)
	}
	if opts.MaxConnections > 0 {
		args = append(args, "-c", "max_connections="+strconv.Itoa(opts.MaxConnections))
	}
	return args
}

// quoteList makes one item of a list setting, whatever characters a path has.
func quoteList(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
