package child

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What a child's user may enter that user may change at any moment: put a link where a file is about to
// be, or another file. The daemon may have rights that this user has not, so in such a folder it follows
// no link and uses nothing that it has not made or looked at.

// HandFile writes a file that only the user can read, nil being the daemon's own. The folder may be the
// user's: what stands there under that name goes, whatever it is, and nothing else is touched.
func HandFile(path string, content []byte, to *User) error {
	f, err := createFresh(path)
	if err == nil {
		_, err = f.Write(content)
		if err == nil && isOther(to) {
			err = f.Chown(int(to.UID), int(to.GID))
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write %s%s: %w", filepath.Base(path), forUser(to), err)
	}
	return nil
}

// createFresh makes a file that was not there. Who keeps putting something in its place is given up on.
func createFresh(path string) (f *os.File, err error) {
	const tries = 3
	for range tries {
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
		if err = os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return nil, fs.ErrExist
}

// GiveFolder makes a folder the user's, nil being the daemon's own. The folder above must be the daemon's.
func GiveFolder(path string, to *User) error {
	if !isOther(to) {
		return nil
	}
	if err := os.Lchown(path, int(to.UID), int(to.GID)); err != nil {
		return fmt.Errorf("cannot give %s to user %s: %w", filepath.Base(path), to.Name, err)
	}
	return nil
}

// MakeFolder makes a folder that only the user can enter, where there is none. Nobody sees it before it is
// the user's, also if the daemon dies in between. The folder above must be the daemon's.
func MakeFolder(path string, of *User) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	made, err := os.MkdirTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	if err = GiveFolder(made, of); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // this file system replaces, or fails
		err = os.Rename(made, path)
	}
	if err != nil {
		_ = os.Remove(made)
		if errors.Is(err, fs.ErrExist) {
			return nil // somebody else was quicker
		}
		return err
	}
	return nil
}

// RemoveFolder removes a folder with all that is in it, also where a child has taken its own right to write away, as
// those do who keep what they downloaded from being changed.
func RemoveFolder(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	allow(path)
	return os.RemoveAll(path)
}

// allow gives this user its rights on folders back. What it cannot change is told by who tries to remove it.
func allow(path string) {
	if info, err := os.Lstat(path); err != nil || !info.IsDir() || os.Chmod(path, 0o700) != nil {
		return
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return
	}
	defer root.Close()
	// It is told of a folder before that is read.
	_ = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			_ = root.Chmod(name, 0o700)
		}
		return nil
	})
}

// openFifo opens a named pipe in a folder of a child's user without waiting for the other end.
func openFifo(path string, flags int) (fd int, err error) {
	fd, err = unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is no pipe any more", filepath.Base(path))
	}
	return fd, nil
}

// giveFifo makes a named pipe the user's: that pipe and nothing that took its place.
func giveFifo(path string, to *User) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return fmt.Errorf("%s is no pipe any more", filepath.Base(path))
	}
	return unix.Fchownat(fd, "", int(to.UID), int(to.GID), unix.AT_EMPTY_PATH)
}

func isOther(u *User) bool { return u != nil && int(u.UID) != os.Geteuid() }

func forUser(u *User) string {
	if !isOther(u) {
		return ""
	}
	return " for user " + u.Name
}
