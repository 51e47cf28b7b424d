package child

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLookupUser(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nobody", "65534"} {
		u, err := LookupUser(name)
		if err != nil || u.Name != "nobody" || u.UID != 65534 {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	u, err := LookupUser("nobody:daemon")
	if err != nil || u.UID != 65534 || u.GID != 1 {
		t.Errorf("with a group: %+v, %v", u, err)
	}
	for name, want := range map[string]string{
		"no-such-user":         `cannot find user "no-such-user": there is no such user on this machine; create it with: useradd --system no-such-user`,
		"4294967":              `cannot find user "4294967": there is no such user`,
		"nobody:no-such-group": `cannot find group "no-such-group": there is no such group on this machine; create it with: groupadd --system no-such-group`,
		"nobody:":              `cannot find group ""`,
	} {
		if _, err := LookupUser(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestRunAsIsRefusedWithoutTheRight(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	r.users.missing = func() []string { return []string{"CAP_SETUID", "CAP_KILL"} }
	if u, err := r.User(""); u != nil || err != nil {
		t.Errorf("nobody in particular: %v, %v", u, err)
	}
	if u, err := r.User(fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())); u != nil || err != nil {
		t.Errorf("itself: %v, %v", u, err)
	}
	other := "nobody"
	if os.Geteuid() == 65534 {
		other = "root"
	}
	for range 2 { // the second time it is remembered
		_, err := r.User(other)
		if err == nil || !strings.Contains(err.Error(), `cannot run it as user "`+other+`": the daemon runs as uid `) || !strings.Contains(err.Error(), "without CAP_SETUID, CAP_KILL") {
			t.Errorf("somebody else: %v", err)
		}
	}
	if got, want := DataFolder("core", &User{UID: 7}), "core.7"; got != want {
		t.Errorf("data folder %s, want %s", got, want)
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may start children as somebody else")
	}
	r := newTestRunner(t)
	spec := sh("id -un; id -gn; id -G")
	var err error
	if spec.User, err = r.User("nobody:daemon"); err != nil {
		t.Fatal(err)
	}
	if got, _ := output(t, r, spec); got != "nobody\ndaemon\n1 65534\n" {
		t.Errorf("got %q", got)
	}
}

// capabilitiesHelper is a daemon that was given capabilities to change users, and is nobody else.
const capabilitiesHelper = "capabilities"

func showCapabilities() int {
	r, err := NewRunner(context.Background(), Options{Logger: slog.New(slog.DiscardHandler), NoKeeper: true})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	defer r.Close()
	for _, name := range []string{"", "daemon"} {
		u, err := r.User(name)
		if err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			return 1
		}
		p, err := r.Start(context.Background(), Spec{
			Name: "child", Path: "/bin/sh", Args: []string{"-c", "id -u; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status"},
			Env: NewEnv("", "").List(), User: u, Stdout: io.Writer(os.Stdout),
		})
		if err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			return 1
		}
		p.Wait()
	}
	return 0
}

// An unprivileged daemon may be given capabilities to run children as others. Children get none of them.
func TestCapabilitiesStayWithTheDaemon(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may give capabilities")
	}
	dir, err := os.MkdirTemp("", "attune-child-test-") // others pass through, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "helper")
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, program} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), helperVar+"="+capabilitiesHelper)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE},
	}
	out, err := cmd.CombinedOutput()
	const none = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n"
	if want := "65534\n" + none + "1\n" + none; err != nil || string(out) != want {
		t.Errorf("children have (%v):\n%s\nwant:\n%s", err, out, want)
	}
}

// What keeps another user out is named, for it may be any folder on the way.
func TestClosedFolderIsNamed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may start children as somebody else")
	}
	r := newTestRunner(t)
	outer, err := os.MkdirTemp("", "attune-child-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(outer) })
	inner := filepath.Join(outer, "closed", "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{outer: 0o711, filepath.Dir(inner): 0o700, inner: 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	spec := sh("true")
	spec.Dir = inner
	if spec.User, err = r.User("nobody"); err != nil {
		t.Fatal(err)
	}
	want := "cannot start test: user nobody may not pass through " + filepath.Dir(inner) + ", which leads to " + inner + "; "
	if _, err := r.Start(t.Context(), spec); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s…", err, want)
	}
}
