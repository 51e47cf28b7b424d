package api

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
)

// socketGroup is the group whose members may use the socket, on machines that have it.
const socketGroup = "attune"

// probeTimeout bounds the question whether somebody serves at a socket: whoever does accepts at once.
const probeTimeout = time.Second

// socket is a listening unix socket and the lock that makes it ours. The lock, not the socket, says
// whether a daemon lives: a socket outlives a killed daemon, a lock does not.
type socket struct {
	net.Listener
	path  string
	lock  child.FileLock
	close func()
}

// listenSocket makes the socket at path: 0660, and of the group attune where there is one. What a dead
// daemon left there is removed; a living one, or a file that is no socket, is refused.
func listenSocket(path string, log *slog.Logger) (*socket, error) {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("cannot make the folder of socket %s: %v", path, cause(err))
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	listener, err := bind(path, log)
	if err != nil {
		lock.Release()
		return nil, err
	}
	s := &socket{Listener: listener, path: path, lock: lock}
	s.close = sync.OnceFunc(func() {
		os.Remove(path)
		_ = listener.Close() // it fails only where it was closed before
		lock.Release()
	})
	return s, nil
}

// makeFolder makes the socket's folder where there is none, passable for those who may use the socket
// whatever the umask is; a folder that is there stays as it is.
func makeFolder(folder string) error {
	if _, err := os.Stat(folder); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.Chmod(folder, 0o755)
}

// Close removes the socket and then lets go of it.
func (s *socket) Close() error {
	s.close()
	return nil
}

// lockSocket takes the lock beside the socket.
func lockSocket(path string) (child.FileLock, error) {
	lock, err := child.LockFile(path + ".lock")
	switch {
	case errors.Is(err, child.ErrFileLocked):
		err = fmt.Errorf("cannot listen on socket %s: another daemon serves there; set http.socket to another path", path)
	case err != nil:
		err = fmt.Errorf("cannot lock socket %s: %v; set http.socket to a path whose folder this user may write", path, cause(err))
	}
	return lock, err
}

// bind listens under a second name, sets owner and mode, and then puts the socket in place, so that
// nobody can connect to it before.
func bind(path string, log *slog.Logger) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	fresh := path + ".new"
	if err := removeStale(fresh); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on socket %s: %v", path, listenCause(err))
	}
	listener.SetUnlinkOnClose(false)
	giveToGroup(fresh, log)
	err = os.Chmod(fresh, 0o660)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
		_ = listener.Close() // the error at hand says more
		return nil, fmt.Errorf("cannot put socket %s in place: %v", path, cause(err))
	}
	return listener, nil
}

// removeStale removes a socket that nobody serves. It is called with the lock held, so a socket that
// answers is of something else than an Attune daemon, or of one that lost its lock file.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot look at socket %s: %v", path, cause(err))
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("cannot listen on socket %s: found a file that is no socket; remove it, or set http.socket to another path", path)
	}
	if conn, err := net.DialTimeout("unix", path, probeTimeout); err == nil {
		_ = conn.Close() // nothing was said
		return fmt.Errorf("cannot listen on socket %s: something serves there; set http.socket to another path", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the socket that a dead daemon left at %s: %v", path, cause(err))
	}
	return nil
}

// giveToGroup gives the socket to the group attune; without the group, or the right to, it stays with
// the daemon's.
func giveToGroup(path string, log *slog.Logger) {
	group, err := user.LookupGroup(socketGroup)
	if err != nil {
		return
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return
	}
	var now unix.Stat_t
	if unix.Stat(path, &now) == nil && int(now.Gid) == gid {
		return // under systemd changing owners is forbidden, and this one's group is the daemon's own
	}
	if err := os.Chown(path, -1, gid); err != nil {
		log.Warn("cannot give the socket to its group", "group", socketGroup, "err", err)
	}
}

// cause strips an error of the path that the message has already.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
