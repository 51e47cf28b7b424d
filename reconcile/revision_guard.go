package reconcile

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// guardEvents are all that changes what a revision is.
const guardEvents = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// guardRead is what is read of changes at a time, in bytes: some hundred of them.
const guardRead = 16 << 10

// guard knows which revisions' folders were changed after they were made. Modes keep ordinary users from
// that, but not root, nor the owner who changes the mode first. It has no goroutine: it is asked before
// each start, so a change that came before that is never missed.
type guard struct {
	fd      int
	digests map[int32]string // by watch
	// buf is not on the stack of whoever asks: growing that costs more than the question.
	buf [guardRead]byte
}

// newGuard gives nil where the kernel gives no more of them; a nil guard sees no change.
func newGuard() (*guard, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the revisions' folders: %v (see fs.inotify.max_user_instances)", err)
	}
	return &guard{fd: fd, digests: map[int32]string{}}, nil
}

// close gives the instance back: a user has 128 of them, on most machines.
func (g *guard) close() {
	if g != nil {
		_ = unix.Close(g.fd)
	}
}

// watch sees changes of the folder from now on.
func (g *guard) watch(dir, digest string) error {
	if g == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		wd, err := unix.InotifyAddWatch(g.fd, at, guardEvents)
		if err != nil {
			return fmt.Errorf("cannot watch %s: %v (see fs.inotify.max_user_watches)", at, err)
		}
		g.digests[int32(wd)] = digest
		return nil
	})
}

// forget sees no more changes of a folder.
func (g *guard) forget(digest string) {
	if g == nil {
		return
	}
	for wd, of := range g.digests {
		if of == digest {
			delete(g.digests, wd)
			_, _ = unix.InotifyRmWatch(g.fd, uint32(wd)) // it may be gone with its folder
		}
	}
}

// changed gives the digests of the folders that were changed since it was last asked; all says that
// too much has happened to know.
func (g *guard) changed() (digests map[string]bool, all bool) {
	if g == nil {
		return nil, false
	}
	for {
		n, err := unix.Read(g.fd, g.buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return digests, all
		}
		for rest := g.buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			name := binary.NativeEndian.Uint32(rest[12:])
			rest = rest[min(unix.SizeofInotifyEvent+int(name), len(rest)):]
			digest, known := g.digests[wd]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				all = true
			case !known:
			case mask&unix.IN_IGNORED != 0:
				delete(g.digests, wd)
			default:
				if digests == nil {
					digests = map[string]bool{}
				}
				digests[digest] = true
			}
		}
	}
}
