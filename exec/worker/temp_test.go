package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTemps hands folders out again, but not one that an attempt has changed, whether its last change is
// old enough to prove that or not.
func TestTemps(t *testing.T) {
	for _, proves := range []bool{false, true} {
		for name, change := range map[string]func(dir string) error{
			"nothing":   func(string) error { return nil },
			"a file":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) },
			"a folder":  func(dir string) error { return os.Mkdir(filepath.Join(dir, "x"), 0o700) },
			"mode":      func(dir string) error { return os.Chmod(dir, 0o770) },
			"attribute": func(dir string) error { return unix.Setxattr(dir, "user.x", []byte("x"), 0) },
			"another": func(dir string) error {
				other := t.TempDir()
				if err := os.WriteFile(filepath.Join(other, "x"), nil, 0o600); err != nil {
					return err
				}
				return unix.Rename(other, dir)
			},
			"gone": os.Remove,
		} {
			temps := temps{dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
			first := takeTemp(t, &temps)
			temps.back(first, nil, true)
			again := takeTemp(t, &temps)
			if again != first {
				t.Fatalf("%s: a folder that nobody changed is not handed out again", name)
			}
			known := temps.looks[first]
			known.proves = proves
			temps.looks[first] = known
			clock := t.TempDir()
			eventually(t, "the file system's clock goes on", func() bool {
				if err := os.Chmod(clock, 0o700); err != nil {
					t.Fatal(err)
				}
				now, _ := lookAt(clock)
				return now.changed != known.changed
			})
			if err := change(first); err != nil {
				t.Logf("%s: %v", name, err)
				continue // this file system has no attributes
			}
			temps.back(first, nil, true)
			if next := takeTemp(t, &temps); (next == first) != (name == "nothing") {
				t.Errorf("%s, proves %v: handed out again is %v", name, proves, next == first)
			}
			temps.clear()
		}
	}
}

func takeTemp(t *testing.T, temps *temps) string {
	t.Helper()
	dir, err := temps.take(nil)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatalf("folder has %v: %v", left, err)
	}
	return dir
}
