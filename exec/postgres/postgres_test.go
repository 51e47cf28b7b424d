package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/exec/child"
)

// TestLife is a cluster from its first start to its last, with all that is safe turned on.
func TestLife(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testDir(t), "postgres")
	opts := testOptions(t, dir)
	opts.Unsafe = false
	var log strings.Builder
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	var told []string
	opts.Progress = func(s string) { told = append(told, s) }

	c := mustStart(t, opts)
	if d := cmp.Diff([]string{"creating the database cluster"}, told); d != "" {
		t.Error(d)
	}
	for sql, want := range map[string]string{
		"SELECT current_database(), current_user": "attune|attune",
		"SHOW listen_addresses":                   "",
		"SHOW fsync":                              "on",
		"SHOW synchronous_commit":                 "on",
		"SHOW full_page_writes":                   "on",
		"SHOW data_checksums":                     "on",
		"SHOW max_connections":                    "50",
		"SHOW jit":                                "off",
		"SHOW server_encoding":                    "UTF8",
		"SHOW timezone":                           "UTC",
		"SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'": "0",
		"CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)":                      "",
	} {
		mustQuery(t, c, sql, want)
	}
	if v, err := query(t, c, "SHOW server_version"); err != nil || !strings.HasPrefix(v, c.Version()) {
		t.Errorf("version %q, server says %q, %v", c.Version(), v, err)
	}
	pid := c.PID()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := clusterState(t, c); got != "shut down" || !gone(pid) {
		t.Errorf("after Stop: %q", got)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}

	told = nil
	begun := time.Now()
	c = mustStart(t, opts)
	t.Logf("start of an existing cluster: %v", time.Since(begun))
	mustQuery(t, c, "SELECT n FROM kept", "7")
	if len(told) != 0 {
		t.Errorf("told %q", told)
	}
	if secret := c.secret; len(secret) < 32 || strings.Contains(log.String(), secret) {
		t.Error("the secret is short, or in the log")
	}
}

// TestWhoMayConnect: the folder keeps others out, and the secret whoever passes the folder.
func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	c := mustStart(t, testOptions(t, filepath.Join(testDir(t), "postgres")))
	for _, dir := range []string{c.layout.dir, c.layout.data, c.layout.socketDir} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
	if st, err := os.Stat(c.layout.secretFile); err != nil || st.Mode().Perm() != 0o400 {
		t.Errorf("secret: %v, %v", st.Mode(), err)
	}
	u, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "wrong")
	out, err := exec.Command(filepath.Join(c.BinDir(), "psql"), "-Xc", "SELECT 1", u.String()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "password authentication failed") {
		t.Errorf("got %v, %s", err, out)
	}
	if os.Geteuid() == 0 {
		st, err := os.Stat("/proc/" + strconv.Itoa(c.PID()))
		if err != nil || st.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("the server runs as root: %v", err)
		}
	}
}

func TestRunStartsItAgain(t *testing.T) {
	t.Parallel()
	opts := testOptions(t, filepath.Join(testDir(t), "postgres"))
	c := mustStart(t, opts)
	mustQuery(t, c, "CREATE TABLE kept AS SELECT 7 AS n", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for range 2 {
		old := c.PID()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another postmaster", func() bool { return c.PID() != old })
		mustQuery(t, c, "SELECT n FROM kept", "7")
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Run does not end")
	}
	if got := clusterState(t, c); got != "shut down" {
		t.Errorf("after Run: %q", got)
	}
}

// TestKilledServerWithBusySession leaves a session that does not notice, which holds the shared memory.
func TestKilledServerWithBusySession(t *testing.T) {
	t.Parallel()
	opts := testOptions(t, filepath.Join(testDir(t), "postgres"))
	c := mustStart(t, opts)
	busy := psql(c, "DO $$ BEGIN LOOP END LOOP; END $$")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer busy.Wait()
	eventually(t, "the session runs", func() bool {
		got, err := query(t, c, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'")
		return err == nil && got == "1"
	})
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.server.gone
	if pids, err := c.layout.processes(); err != nil || len(pids) == 0 {
		t.Fatalf("nothing lingers, so nothing is tested: %v, %v", pids, err)
	}
	again := mustStart(t, opts)
	mustQuery(t, again, "SELECT 1", "1")
}

// TestAdopt starts a cluster twice, at the same time: there may be one server only.
func TestAdopt(t *testing.T) {
	t.Parallel()
	opts := testOptions(t, filepath.Join(testDir(t), "postgres"))
	var both [2]*Cluster
	var wg sync.WaitGroup
	for i := range both {
		wg.Go(func() {
			c, err := Start(t.Context(), opts)
			if err != nil {
				t.Error(err)
				return
			}
			both[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if both[0].PID() != both[1].PID() || both[0].URL() != both[1].URL() {
		t.Fatalf("two servers: %d and %d", both[0].PID(), both[1].PID())
	}
	if both[0].server.adopted() == both[1].server.adopted() {
		t.Error("who has started it?")
	}
	mustQuery(t, both[0], "SELECT 1", "1")
	// The one that took it over can end it, and the other notices.
	for _, c := range both {
		if c.server.adopted() {
			if err := c.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range both {
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := clusterState(t, both[0]); got != "shut down" {
		t.Errorf("after Stop: %q", got)
	}
}

// TestStopsWhileStopping finds a server that is on its way out, and waits for it.
func TestStartDuringStop(t *testing.T) {
	t.Parallel()
	opts := testOptions(t, filepath.Join(testDir(t), "postgres"))
	c := mustStart(t, opts)
	old := c.PID()
	if err := c.server.signal(syscall.SIGTERM); err != nil { // smart: waits for sessions, of which there are none
		t.Fatal(err)
	}
	again := mustStart(t, opts)
	if again.PID() == old {
		// It was ready still when it was taken over. Then it is gone now.
		<-again.server.gone
		again = mustStart(t, opts)
	}
	mustQuery(t, again, "SELECT 1", "1")
}

// TestStalePIDFile has a pid that belongs to somebody else by now, of the server's own user: PostgreSQL
// itself refuses to start then.
func TestStalePIDFile(t *testing.T) {
	t.Parallel()
	opts := testOptions(t, filepath.Join(testDir(t), "postgres"))
	c := mustStart(t, opts)
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger, err := opts.Runner.Start(t.Context(), child.Spec{Name: "stranger", Path: "/bin/sleep", Args: []string{"300"}, Dir: "/", User: c.layout.user})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Stop(0)
	text := fmt.Sprintf("%d\n%s\n1700000000\n5432\n%s\n\n  1  2\nready   \n", stranger.PID(), c.layout.data, c.layout.socketDir)
	for _, name := range []string{c.layout.pidFile(), filepath.Join(c.layout.socketDir, ".s.PGSQL.5432.lock")} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.layout.chown(name); err != nil {
			t.Fatal(err)
		}
	}
	again := mustStart(t, opts)
	mustQuery(t, again, "SELECT 1", "1")
	if again.PID() == stranger.PID() || gone(stranger.PID()) {
		t.Error("the stranger was taken for the server")
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, broken := range []string{"", "x\n", "-1\n", "999999999\n"} {
		if err := os.WriteFile(c.layout.pidFile(), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		again = mustStart(t, opts)
		if err := again.Stop(t.Context()); err != nil {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

func TestInterruptedCreation(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testDir(t), "postgres")
	opts := testOptions(t, dir)
	// What a crash in the middle leaves: a secret that is cut off, and half a cluster.
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data.new", "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opts.Progress = func(string) { cancel() } // interrupts initdb
	if _, err := Start(ctx, opts); err == nil {
		t.Fatal("it was interrupted, and started")
	}
	opts.Progress = nil
	mustQuery(t, mustStart(t, opts), "SELECT 1", "1")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	base := testDir(t)
	cluster := func(name, version string) string {
		t.Helper()
		dir := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("x\n"), 0o400); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	noSecret := cluster("nosecret", "15\n")
	if err := os.Remove(filepath.Join(noSecret, "secret")); err != nil {
		t.Fatal(err)
	}
	foreign := cluster("foreign", "15\n")
	if err := os.Remove(filepath.Join(foreign, "data", "PG_VERSION")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "data", "letters"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, dir, want string }{
		{"older version", cluster("old", "12\n"), "was made by PostgreSQL 12, and this machine has PostgreSQL "},
		{"newer version", cluster("new", "99\n"), "apt-get install postgresql-99"},
		{"no version", cluster("garbage", "x\n"), `says "x", which is no version`},
		{"no secret", noSecret, "put it back from a backup"},
		{"not a cluster", foreign, "is not empty and no cluster"},
		{"a file", file, "is not a directory"},
		{"relative", "postgres", "an absolute Dir"},
	} {
		opts := testOptions(t, tc.dir)
		_, err := Start(t.Context(), opts)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot start the private PostgreSQL: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v\nwant %q", tc.name, err, tc.want)
		}
	}
}

func TestImpassableParent(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the server runs as the daemon's own user")
	}
	private := filepath.Join(testDir(t), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), testOptions(t, filepath.Join(private, "deeper", "postgres")))
	if err == nil || !strings.Contains(err.Error(), "cannot pass through "+private+",") || !strings.Contains(err.Error(), "chmod o+x "+private) {
		t.Errorf("got %v", err)
	}
}

// TestLongPath: the socket goes elsewhere, the data does not.
func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testDir(t), strings.Repeat("long", 30), "postgres")
	c := mustStart(t, testOptions(t, dir))
	defer os.RemoveAll(c.layout.socketDir)
	if strings.HasPrefix(c.layout.socketDir, dir) || len(c.layout.socketDir) > 80 {
		t.Errorf("socket in %s", c.layout.socketDir)
	}
	mustQuery(t, c, "SELECT 1", "1")
}

// TestOddPath has what could break a setting or a URL.
func TestOddPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testDir(t), `a b'"%?&ö`)
	c := mustStart(t, testOptions(t, dir))
	mustQuery(t, c, "SELECT 1", "1")
}

func TestKeeperStopsIt(t *testing.T) {
	t.Parallel()
	state := testDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+state)
	cmd.Stderr = t.Output()
	cmd.WaitDelay = time.Second // the keeper has its stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "ready %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the server is gone", func() bool { return gone(pid) })
	c := mustStart(t, testOptions(t, filepath.Join(state, "postgres")))
	log, err := os.ReadFile(c.layout.log)
	if err != nil || !strings.Contains(string(log), "received fast shutdown request") || strings.Contains(string(log), "not properly shut down") {
		t.Errorf("it was not stopped in its order: %v\n%s", err, log)
	}
}

func TestBoundLog(t *testing.T) {
	t.Parallel()
	l := layout{log: filepath.Join(t.TempDir(), "log")}
	size := func(name string) int64 {
		st, err := os.Stat(name)
		if err != nil {
			return -1
		}
		return st.Size()
	}
	if err := os.WriteFile(l.log, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	l.boundLog()
	if size(l.log) != 0 || size(l.log+".1") != maxLog+1 {
		t.Errorf("sizes %d and %d", size(l.log), size(l.log+".1"))
	}
	if err := os.WriteFile(l.log, make([]byte, maxLog+2), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := l.openLog()
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("first\nsecond\n")
	f.Close()
	if size(l.log+".1") != maxLog+2 || l.lastLog() != "first | second" {
		t.Errorf("size %d, %q", size(l.log+".1"), l.lastLog())
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	b := func(major int) binaries {
		return binaries{dir: "/b" + strconv.Itoa(major), version: strconv.Itoa(major) + ".1", major: major}
	}
	for _, tc := range []struct {
		name  string
		found []binaries
		major int
		want  int
		err   string
	}{
		{"newest for a new one", []binaries{b(14), b(17), b(15)}, 0, 17, ""},
		{"the cluster's own", []binaries{b(17), b(15)}, 15, 15, ""},
		{"none", nil, 0, 0, "there are no PostgreSQL server binaries on this machine"},
		{"too old", []binaries{b(12)}, 0, 0, "this machine has PostgreSQL 12.1 in /b12, and versions 14 to 18 are supported"},
		{"too new is not taken", []binaries{b(19), b(16)}, 0, 16, ""},
		{"missing major", []binaries{b(17)}, 15, 0, "the cluster in /data was made by PostgreSQL 15, and this machine has PostgreSQL 17.1 in /b17"},
		{"missing all", nil, 15, 0, "no server binaries at all"},
	} {
		got, err := choose(tc.found, tc.major, "/data")
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v", tc.name, err)
			}
			continue
		}
		if err != nil || got.major != tc.want {
			t.Errorf("%s: got %+v, %v", tc.name, got, err)
		}
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": "15.18",
		"postgres (PostgreSQL) 18beta1\n":                        "18",
		"postgres (PostgreSQL) 17.2\n":                           "17.2",
		"":                                                       "",
	} {
		if got := parseVersion(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

func FuzzParsePIDFile(f *testing.F) {
	f.Add("123\n/data\n1700000000\n5432\n/run\n\n 1 2\nready   \n")
	f.Add("-5\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePIDFile(text)
		if (p == nil) == (err == nil) {
			t.Errorf("got %v and %v", p, err)
		}
		if p != nil && p.pid < 0 {
			t.Errorf("pid %d", p.pid)
		}
	})
}

// BenchmarkStart is the start of a cluster that exists, clean, to its first connection.
func BenchmarkStart(b *testing.B) {
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	r, err := child.NewRunner(b.Context(), child.Options{Logger: logger, NoKeeper: true})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	opts := Options{Dir: filepath.Join(dir, "postgres"), Runner: r, Logger: logger}
	created, err := Start(b.Context(), opts)
	if err != nil {
		b.Fatal(err)
	}
	if err := created.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := Start(b.Context(), opts)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := c.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
