package reconcile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// added makes something beside the scripts of a revision.
func added(make func(at string) error) func(dir string) error {
	return func(dir string) error {
		return errors.Join(os.Chmod(filepath.Join(dir, "actions"), 0o755), make(filepath.Join(dir, "actions", "evil")))
	}
}

// replaced makes something in the place of a script.
func replaced(make func(at string) error) func(dir string) error {
	return func(dir string) error {
		script := filepath.Join(dir, "actions", "act.sh")
		return errors.Join(os.Chmod(filepath.Join(dir, "actions"), 0o755), os.Remove(script), make(script))
	}
}

// listenAt leaves a socket. Its path is too long for the kernel, so it is bound by a short one.
func listenAt(at string) error {
	fd, err := unix.Open(filepath.Dir(at), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.Bind(socket, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(at))})
}

// A child that gets around the mode, as root does, changes nothing for the next one, and takes nothing
// away from those that run.
func TestRevisionIsMadeAnewWhenAChildChangesIt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"written": func(dir string) error {
			script := filepath.Join(dir, "actions/act.sh")
			if err := os.Chmod(script, 0o755); err != nil {
				return err
			}
			return os.WriteFile(script, []byte("evil\n"), 0o755)
		},
		"added": func(dir string) error {
			if err := os.Chmod(dir, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "evil"), nil, 0o644)
		},
		"added deep": func(dir string) error {
			if err := os.Chmod(filepath.Join(dir, "actions"), 0o755); err != nil {
				return err
			}
			if err := os.Mkdir(filepath.Join(dir, "actions", "evil"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "actions", "evil", "x"), nil, 0o644)
		},
		"removed": func(dir string) error {
			if err := os.Chmod(filepath.Join(dir, "actions"), 0o755); err != nil {
				return err
			}
			return os.Remove(filepath.Join(dir, "actions/act.sh"))
		},
		"replaced": func(dir string) error {
			if err := os.Chmod(filepath.Join(dir, "actions"), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "actions/.new"), []byte("evil\n"), 0o444); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "actions/.new"), filepath.Join(dir, "actions/act.sh"))
		},
		"a pipe":              added(func(at string) error { return unix.Mkfifo(at, 0o644) }),
		"a pipe in its place": replaced(func(at string) error { return unix.Mkfifo(at, 0o644) }),
		"a socket":            added(listenAt),
		"a link to itself":    replaced(func(at string) error { return os.Symlink(filepath.Base(at), at) }),
		"a file larger than a revision": added(func(at string) error {
			return errors.Join(os.WriteFile(at, nil, 0o644), os.Truncate(at, maxPackBytes+1))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			r := newRevisions(t, &log)
			c := newContents(onePack())
			made := 0
			content := func(digest string) ([]byte, error) { made++; return c.content(digest) }
			dir, err := r.Put(t.Context(), c.digest(), c.tree, content)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Put(t.Context(), c.digest(), c.tree, content); err != nil {
				t.Fatal(err)
			}
			before := made
			running, err := os.Open(filepath.Join(dir, "pack.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			defer running.Close()
			for round := range 2 { // what was made anew is watched too
				if err := change(dir); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Put(t.Context(), c.digest(), c.tree, content); err != nil {
					t.Fatal(err)
				}
				if text, err := os.ReadFile(filepath.Join(dir, "actions/act.sh")); err != nil || string(text) != "echo\n" {
					t.Errorf("round %d: the script is %q, %v", round, text, err)
				}
				there, err := readTree(dir)
				if err != nil || treeDigest(there) != c.digest() {
					t.Errorf("round %d: the revision is %v, %v", round, there, err)
				}
			}
			retired, err := filepath.Glob(filepath.Join(r.dir, unfinished+"*"))
			if err != nil || len(retired) != 2 {
				t.Errorf("those who run in it have lost it: %v, %v", retired, err)
			}
			// The next process makes anew what was changed while none ran.
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			next, err := NewRevisions(r.dir, nil, quietLogger())
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			if _, err := next.Put(t.Context(), c.digest(), c.tree, content); err != nil {
				t.Errorf("after a restart: %v", err)
			}
			if there, err := readTree(dir); err != nil || treeDigest(there) != c.digest() {
				t.Errorf("after a restart the revision is %v, %v", there, err)
			}
			if made == before || strings.Count(log.String(), "made anew") != 2 {
				t.Errorf("files were asked for %d and %d times; log:\n%s", before, made, &log)
			}
			last, err := NewRevisions(r.dir, nil, r.logger)
			if err != nil {
				t.Fatal(err)
			}
			defer last.Close()
			if left, _ := filepath.Glob(filepath.Join(r.dir, unfinished+"*")); len(left) > 0 {
				t.Errorf("the next start leaves %v", left)
			}
		})
	}
}

// Reading is no change, and costs nothing.
func TestRevisionThatIsReadIsNotLookedThrough(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := newRevisions(t, &log)
	c := newContents(onePack())
	dir, err := r.Put(t.Context(), c.digest(), c.tree, c.content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "actions/act.sh")); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.noticeChanges()
	_, made := r.made[c.digest()]
	r.mu.Unlock()
	if !made {
		t.Error("reading made it doubtful")
	}
}
