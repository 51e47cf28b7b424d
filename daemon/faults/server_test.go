package faults

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// server is a PostgreSQL of one test's own, for what would break those of others: it is stopped, frozen,
// filled up, or turned back.
type server struct {
	testing.TB
	programs string // the folder of initdb and postgres
	data     string
	sockets  string
	// settings are options of the command line: "max_connections=12". They and env may be changed before a
	// start.
	settings []string
	env      []string
	owner    *syscall.Credential // nil: as the tests

	cmd  *exec.Cmd
	out  *log
	done chan struct{}
}

// withServer makes a yard whose database is on a server of its own, which runs.
func withServer(t testing.TB, archive string, settings ...string) (*yard, *server) {
	t.Helper()
	y := emptyYard(t)
	y.unpack(archive)
	s := newServer(y, filepath.Join(y.dir, "server"), settings...)
	y.url = s.url()
	s.start()
	return y, s
}

// newServer makes a cluster in a folder, which is made too.
func newServer(y *yard, dir string, settings ...string) *server {
	y.Helper()
	s := &server{TB: y, data: filepath.Join(dir, "data"), sockets: dir, settings: settings, out: new(log)}
	s.programs = serverPrograms(y)
	y.check(os.MkdirAll(dir, 0o755))
	y.check(os.Chmod(dir, 0o755))
	if os.Geteuid() == 0 { // as whom the server refuses to run
		for _, name := range []string{"postgres", "nobody"} {
			if u, err := child.LookupUser(name); err == nil {
				s.owner = &syscall.Credential{Uid: u.UID, Gid: u.GID}
				break
			}
		}
		y.check(os.Chown(dir, int(s.owner.Uid), int(s.owner.Gid)))
	}
	s.tool("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", s.data)
	y.Cleanup(func() {
		if s.done != nil {
			s.end(syscall.SIGQUIT)
		}
	})
	return s
}

func serverPrograms(t testing.TB) string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Fatal("there is no initdb: run contrib/setup.sh test")
	}
	return filepath.Dir(found[0])
}

func (s *server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, program), args...)
	cmd.Dir = s.sockets
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}, s.env...)
	// A signal to the tests' group is not for it. Its session stays theirs: a child in another one is taken
	// for what an action left behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.owner}
	return cmd
}

// tool runs one of the server's programs to its end.
func (s *server) tool(program string, args ...string) {
	s.Helper()
	if out, err := s.command(s.Context(), program, args...).CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// url leads to it by its socket.
func (s *server) url() string { return s.urlOf("postgres", "") }

func (s *server) urlOf(user, password string) string {
	return "postgres://" + user + ":" + password + "@/postgres?host=" + s.sockets
}

// start runs the server and waits until it answers.
func (s *server) start() {
	s.Helper()
	s.launch()
	s.answers()
}

func (s *server) launch() {
	s.Helper()
	// What is measured is not the disk, and a crash of the machine is not what these tests bring about.
	args := []string{"-D", s.data, "-k", s.sockets, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=warning"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	s.cmd = s.command(context.WithoutCancel(s.Context()), "postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { _ = cmd.Wait(); close(done) }()
}

// answers waits until it takes connections.
func (s *server) answers() {
	s.Helper()
	for deadline := time.Now().Add(patience); ; pause(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		conn, err := storetest.TryConnect(ctx, s.url())
		if err == nil {
			_ = conn.Close(ctx)
		}
		cancel()
		switch {
		case err == nil:
			return
		case s.hasEnded() || time.Now().After(deadline):
			s.Fatalf("the server does not answer: %v\n%s", err, s.out)
		}
	}
}

func (s *server) hasEnded() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// end ends the server: SIGINT is pg_ctl's fast, SIGQUIT its immediate, which is a crash.
func (s *server) end(how syscall.Signal) {
	s.Helper()
	s.signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(how)
	select {
	case <-s.done:
	case <-time.After(patience):
		s.Fatalf("the server does not end\n%s", s.out)
	}
}

// signal sends a signal to all processes of the server.
func (s *server) signal(sig syscall.Signal) {
	for _, pid := range s.pids() {
		_ = syscall.Kill(pid, sig)
	}
}

// pids are the postmaster, first, and its children.
func (s *server) pids() []int {
	postmaster := s.cmd.Process.Pid
	pids := []int{postmaster}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(text, []byte(") "))
		fields := strings.Fields(string(rest))
		if len(fields) > 1 && fields[1] == strconv.Itoa(postmaster) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return slices.Compact(pids)
}
