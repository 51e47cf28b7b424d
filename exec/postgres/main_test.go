package postgres

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/attune-io/attune/exec/child"
)

const (
	// helperVar makes this test binary a daemon with a private PostgreSQL, which a test can kill.
	helperVar = "POSTGRES_TEST_HELPER"
	// patience is how long a test waits for what should come soon.
	patience = 60 * time.Second
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "keeper":
		os.Exit(child.RunKeeper())
	case os.Getenv(helperVar) != "":
		if err := helper(os.Getenv(helperVar)); err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func helper(dir string) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	r, err := child.NewRunner(context.Background(), child.Options{Binary: os.Args[0], StateDir: dir, Logger: logger})
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := Start(context.Background(), Options{Dir: filepath.Join(dir, "postgres"), Runner: r, Logger: logger, Unsafe: true})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready", c.PID())
	_, err = io.Copy(io.Discard, os.Stdin)
	if err != nil {
		return err
	}
	return c.Stop(context.Background())
}

// testDir is a short folder that the server's user can pass through.
func testDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func testRunner(t *testing.T) *child.Runner {
	t.Helper()
	r, err := child.NewRunner(context.Background(), child.Options{Logger: testLogger(t), NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func testLogger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func testOptions(t *testing.T, dir string) Options {
	t.Helper()
	return Options{Dir: dir, Runner: testRunner(t), Logger: testLogger(t), Unsafe: true}
}

func mustStart(t *testing.T, opts Options) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// query asks the server by psql, as this package speaks to it by no other way.
func query(t *testing.T, c *Cluster, sql string) (string, error) {
	t.Helper()
	out, err := psql(c, sql).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func psql(c *Cluster, sql string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.BinDir(), "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", c.URL(), "-c", sql)
	cmd.Env = []string{"PATH=" + child.ChildPath}
	return cmd
}

func mustQuery(t *testing.T, c *Cluster, sql, want string) {
	t.Helper()
	if got, err := query(t, c, sql); err != nil || got != want {
		t.Errorf("%s: got %q, %v, want %q", sql, got, err, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// clusterState is what pg_controldata says: "shut down" after a clean end, "in production" after a crash.
func clusterState(t *testing.T, c *Cluster) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(c.BinDir(), "pg_controldata"), c.layout.data).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if state, ok := strings.CutPrefix(line, "Database cluster state:"); ok {
			return strings.TrimSpace(state)
		}
	}
	t.Fatalf("no state in %s", out)
	return ""
}

func gone(pid int) bool {
	h, err := child.OpenProcess(pid, 0)
	if err != nil {
		return true
	}
	h.Close()
	return false
}
