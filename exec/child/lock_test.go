package child

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFileLock(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	lock, err := LockFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(name); !errors.Is(err, ErrFileLocked) {
		t.Errorf("it is locked twice: %v", err)
	}
	// Any child that is being started has it open a second time.
	other, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	lock.Release()
	again, err := LockFile(name)
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
	link := name + ".link"
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(link); err == nil {
		t.Error("it follows a link, which may be somebody else's")
	}
}
