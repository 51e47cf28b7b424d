package child

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandFile hands files over in a folder whose owner has put other things there.
func TestHandFile(t *testing.T) {
	t.Parallel()
	treasure := filepath.Join(t.TempDir(), "treasure")
	for name, plant := range map[string]func(path string) error{
		"nothing":       func(string) error { return nil },
		"a link":        func(path string) error { return os.Symlink(treasure, path) },
		"a second name": func(path string) error { return os.Link(treasure, path) },
		"a folder":      func(path string) error { return os.MkdirAll(filepath.Join(path, "a", "b"), 0o700) },
		"a pipe":        func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		if err := os.WriteFile(treasure, []byte("gold"), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "parameters")
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		var to *User
		if os.Geteuid() == 0 {
			to = &User{UID: 65534, GID: 65534, Name: "nobody"}
		}
		if err := HandFile(path, []byte("brass"), to); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o400 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "brass" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if uid := ownerOf(t, path); to != nil && uid != to.UID {
			t.Errorf("%s: it belongs to %d", name, uid)
		}
		if got, err := os.ReadFile(treasure); err != nil || string(got) != "gold" || ownerOf(t, treasure) != uint32(os.Geteuid()) {
			t.Errorf("%s: what it led to holds %q and belongs to %d: %v", name, got, ownerOf(t, treasure), err)
		}
	}
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func TestMakeFolder(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	path := filepath.Join(base, "data")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := MakeFolder(path, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	entries, err := os.ReadDir(base)
	if err != nil || len(entries) != 1 || entries[0].Name() != "data" {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		return
	}
	theirs := filepath.Join(base, "theirs")
	if err := MakeFolder(theirs, &User{UID: 65534, GID: 65534}); err != nil || ownerOf(t, theirs) != 65534 {
		t.Errorf("it belongs to %d: %v", ownerOf(t, theirs), err)
	}
}

// TestWarmPipesAreNoLinks has one shell put links where others find their pipes.
func TestWarmPipesAreNoLinks(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	spec := h.script(WarmBash, "x.sh", "echo done")
	treasure := filepath.Join(t.TempDir(), "treasure")
	if err := os.WriteFile(treasure, []byte("gold"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.heat(spec)
	for _, end := range []string{".c", ".0", ".1", ".2"} {
		pipes, err := filepath.Glob(filepath.Join(h.opts.Dir, "bash-*", "*"+end))
		if err != nil || len(pipes) == 0 {
			t.Fatalf("no pipes: %v", err)
		}
		for _, pipe := range pipes {
			if err := os.Remove(pipe); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(treasure, pipe); err != nil {
				t.Fatal(err)
			}
		}
	}
	spec.Stdin = strings.NewReader("brass")
	if r := h.run(h.Start, spec); r.stdout != "done\n" || r.exit.Code != 0 || h.count(WarmStarted) > 0 {
		t.Errorf("%+v, %v", r, h.outcomes)
	}
	if got, err := os.ReadFile(treasure); err != nil || string(got) != "gold" {
		t.Errorf("what the links led to holds %q: %v", got, err)
	}
	if fd, err := openFifo(treasure, unix.O_WRONLY); err == nil {
		unix.Close(fd)
		t.Error("a file was taken for a pipe")
	}
	if err := giveFifo(treasure, &User{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}); err == nil {
		t.Error("a file was given away as a pipe")
	}
}

// A shell that waits for its work and gets none ends: it must not begin the parent's own program anew, and answer
// in its place.
func TestWarmBashWithoutWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, work := filepath.Join(dir, "bash.sh"), filepath.Join(dir, "1.c")
	if err := os.WriteFile(program, bashProgram, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(work, 0o600); err != nil {
		t.Fatal(err)
	}
	said, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	parent := exec.Command("bash", "--noprofile", "--norc", program, dir)
	parent.Stdin, parent.ExtraFiles = strings.NewReader("1\n"), []*os.File{theirs}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	empty, err := os.OpenFile(work, os.O_WRONLY, 0) // waits for the shell
	if err != nil {
		t.Fatal(err)
	}
	empty.Close()
	text, err := io.ReadAll(said) // until the last of them has gone
	if err != nil || !regexp.MustCompile(`^up \d+\n(pids 1 \d+\nforked\n)$`).Match(text) {
		t.Errorf("%q, %v", text, err)
	}
	if err := parent.Wait(); err != nil {
		t.Error(err)
	}
}

// A folder goes also where a child, which runs as the daemon's user, has made it unwritable. What a link leads to stays.
func TestRemoveFolder(t *testing.T) {
	t.Parallel()
	above := t.TempDir()
	dir, other := filepath.Join(above, "x"), filepath.Join(above, "other")
	for _, path := range []string{filepath.Join(dir, "a", "b", "c"), filepath.Join(dir, "hidden", "d"), other} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(dir, "a", "b", "c", "file"), filepath.Join(other, "file")} {
		if err := os.WriteFile(path, nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{other: 0o500, filepath.Join(dir, "hidden"): 0, filepath.Join(dir, "a", "b", "c"): 0o500, filepath.Join(dir, "a", "b"): 0o500, dir: 0o500} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	removed := make(chan error)
	go func() {
		// As somebody whom modes bind: for this thread alone, which ends with this.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			err := filepath.WalkDir(above, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, 65534, 65534))
			})
			for up := above; up != os.TempDir() && up != "/" && err == nil; up = filepath.Dir(up) {
				err = os.Chmod(up, 0o711)
			}
			if err != nil {
				removed <- err
				return
			}
			_ = unix.Setfsuid(65534)
		}
		if err := os.RemoveAll(dir); !errors.Is(err, fs.ErrPermission) {
			removed <- fmt.Errorf("modes do not bind: %v", err)
			return
		}
		removed <- RemoveFolder(dir)
	}()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("what the link leads to was changed: %v, %v", info, err)
	}
}
