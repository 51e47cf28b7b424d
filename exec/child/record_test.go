package child

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockIsLetGo has the lock's file open a second time when it is let go, as any child has that is being started.
func TestLockIsLetGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := openStateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.FcntlInt(s.lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	s.close()
	again, err := openStateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
}
