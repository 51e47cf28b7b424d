package child

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// FileLock is a file that this process alone has locked (flock(2)), until Release or until it is gone, however it
// went: the lock, and not that the file is there, says whether its holder lives. The file stays, for
// unlinking it would let two hold it.
type FileLock struct{ *os.File }

// ErrFileLocked says that another process has locked the file.
var ErrFileLocked = errors.New("another process has locked it")

// LockFile locks the file, and makes it where there is none. It gives [ErrFileLocked] where somebody else has it.
func LockFile(name string) (FileLock, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return FileLock{}, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrFileLocked
		}
		return FileLock{}, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	return FileLock{f}, nil
}

// Release lets go of the lock. Closing alone is not enough: a child that is being started has the file open too, until
// it runs its program.
func (l FileLock) Release() {
	_ = unix.Flock(int(l.Fd()), unix.LOCK_UN)
	l.Close()
}
