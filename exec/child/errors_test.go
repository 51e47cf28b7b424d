package child

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStartErrors(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	good := file("good", "#!/bin/sh\n", 0o700)
	notDir := file("notdir", "", 0o600)
	big := strings.Repeat("x", 200<<10)
	for _, tc := range []struct {
		name string
		spec Spec
		want string
		is   error
	}{
		{"missing file", Spec{Path: dir + "/nothing"}, "the file " + dir + "/nothing does not exist", fs.ErrNotExist},
		{"missing folder", Spec{Path: good + "/x"}, "does not exist", syscall.ENOTDIR},
		{"dangling link", Spec{Path: dir + "/dangling"}, "is a symbolic link to nowhere", fs.ErrNotExist},
		{"link in a circle", Spec{Path: dir + "/loop"}, "leads in a circle", syscall.ELOOP},
		{"missing interpreter", Spec{Path: file("interp", "#!/no/such/interp -x\n", 0o700)}, "the interpreter /no/such/interp that line 1 of " + dir + "/interp names does not exist", fs.ErrNotExist},
		{"CRLF", Spec{Path: file("crlf", "#!/bin/sh\r\necho\r\n", 0o700)}, `line 1 of ` + dir + `/crlf ends in CRLF, so the kernel looks for the interpreter "/bin/sh\r"`, fs.ErrNotExist},
		{"no x bit", Spec{Path: file("nox", "#!/bin/sh\n", 0o600)}, "has no x bit; set it with: chmod +x", fs.ErrPermission},
		{"folder", Spec{Path: dir}, "is a directory, not a program", fs.ErrPermission},
		{"no shebang", Spec{Path: file("plain", "echo hi\n", 0o700)}, "has no #! in its first line", syscall.ENOEXEC},
		{"empty", Spec{Path: file("empty", "", 0o700)}, "/empty is empty", syscall.ENOEXEC},
		{"BOM", Spec{Path: file("bom", "\xef\xbb\xbf#!/bin/sh\n", 0o700)}, "byte order mark", syscall.ENOEXEC},
		{"empty shebang", Spec{Path: file("hash", "#!\n", 0o700)}, "a #! without an interpreter", syscall.ENOEXEC},
		{"other machine", Spec{Path: file("elf", "\x7fELF\x01\x01", 0o700)}, "for another machine", syscall.ENOEXEC},
		{"interpreter without x bit", Spec{Path: file("i2", "#!"+dir+"/nox\n", 0o700)}, "names cannot be executed", fs.ErrPermission},
		{"missing working directory", Spec{Path: good, Dir: dir + "/gone"}, "its working directory " + dir + "/gone does not exist", fs.ErrNotExist},
		{"working directory is a file", Spec{Path: good, Dir: notDir}, "is not a directory", syscall.ENOTDIR},
		{"arguments too big", Spec{Path: good, Args: []string{big}}, "hand them over by stdin", syscall.E2BIG},
		{"environment too big", Spec{Path: good, Env: []string{"X=" + big}}, "hand them over by stdin", syscall.E2BIG},
		{"NUL in an argument", Spec{Path: good, Args: []string{"a", "b\x00"}}, "argument 2 holds a NUL", syscall.EINVAL},
		{"NUL in a variable", Spec{Path: good, Env: []string{"TOKEN=geheim\x00"}}, "variable TOKEN holds a NUL", syscall.EINVAL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.Name = "execution 17"
			_, err := r.Start(t.Context(), tc.spec)
			if _, ok := errors.AsType[*StartError](err); !ok {
				t.Fatalf("got %T %v", err, err)
			}
			if !strings.HasPrefix(err.Error(), "cannot start execution 17: ") || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("got %q\nwant %q", err, tc.want)
			}
			if !errors.Is(err, tc.is) {
				t.Errorf("%v is not %v", err, tc.is)
			}
		})
	}
}

// TestNoexec needs a file system that is mounted so, which root can make.
func TestNoexec(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOEXEC, "size=64k"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	r := newTestRunner(t)
	script := filepath.Join(dir, "x")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(t.Context(), Spec{Name: "x", Path: script}); err == nil || !strings.Contains(err.Error(), "mounted noexec") {
		t.Errorf("got %v", err)
	}
}

// TestBusyProgram holds the program open for writing, as whoever installs it does.
func TestBusyProgram(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	script := filepath.Join(t.TempDir(), "x")
	w, err := os.OpenFile(script, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("#!/bin/sh\nexit 4\n"); err != nil {
		t.Fatal(err)
	}
	waits := 0
	r.busyWait = func(d time.Duration) <-chan time.Time {
		waits++
		return time.After(d)
	}
	_, err = r.Start(t.Context(), Spec{Name: "x", Path: script})
	if !errors.Is(err, syscall.ETXTBSY) || !strings.Contains(err.Error(), "open for writing") || waits != len(busyWaits) {
		t.Errorf("got %v after %d waits", err, waits)
	}

	// And with one who closes in time.
	r.busyWait = func(d time.Duration) <-chan time.Time {
		w.Close()
		return time.After(d)
	}
	if e := waitDone(t, start(t, r, Spec{Name: "x", Path: script})); e.Code != 4 {
		t.Errorf("got %v", e)
	}
}

// TestNoDescriptorsLeft: neither a start nor a failed one may keep any.
func TestNoDescriptorsLeft(t *testing.T) {
	r := newTestRunner(t)
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	run := func() {
		spec := sh("echo x")
		spec.Stdout, spec.Stderr = NewCapture(10, nil), NewCapture(10, nil)
		spec.Stdin = strings.NewReader("x")
		waitDone(t, start(t, r, spec))
		spec.Path = "/no/such/file"
		if _, err := r.Start(t.Context(), spec); err == nil {
			t.Error("started")
		}
	}
	run()
	before := count()
	for range 50 {
		run()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
