package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/attune-io/attune/exec/child"
)

const (
	// maxSocketPath is what sockaddr_un holds, less its NUL.
	maxSocketPath = 107
	// maxLog bounds the server's log; with the file before it there is twice as much.
	maxLog = 8 << 20
	// logTail is how much of the log an error shows.
	logTail = 2 << 10
	// lockPoll is how often a lock that somebody holds is tried again.
	lockPoll = 20 * time.Millisecond
)

// layout is where everything of a cluster is, and whose.
type layout struct {
	dir, data, socketDir, log, secretFile string
	user                                  *child.User // nil: the daemon's own
}

// prepareLayout makes the folders, with an owner and modes that the server accepts.
func prepareLayout(dir string) (layout, error) {
	l := layout{
		dir:        dir,
		data:       filepath.Join(dir, "data"),
		log:        filepath.Join(dir, "postgres.log"),
		secretFile: filepath.Join(dir, "secret"),
	}
	var err error
	if l.user, err = serverUser(); err != nil {
		return l, err
	}
	if err := makeParents(filepath.Dir(dir)); err != nil {
		return l, err
	}
	if err := l.own(dir); err != nil {
		return l, err
	}
	if err := checkParents(dir, l.user); err != nil {
		return l, err
	}
	if l.socketDir, err = socketDir(dir); err != nil {
		return l, err
	}
	return l, l.own(l.socketDir)
}

// serverUser is whom the server runs as: it refuses to run as root.
func serverUser() (*child.User, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := child.LookupUser(name); err == nil && u.UID != 0 {
			return u, nil
		}
	}
	return nil, errors.New("it cannot run as root, and this machine has neither a user postgres nor nobody; create one with: useradd --system postgres")
}

// own makes a folder that belongs to the server's user alone.
func (l layout) own(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A folder in a place that others can write to may be a trap: a link, or somebody else's.
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	if owner != uint32(os.Geteuid()) && (l.user == nil || owner != l.user.UID) {
		return fmt.Errorf("%s belongs to user %d, not to the one that runs the server; move it away, or give it back with chown", dir, owner)
	}
	if err := l.chown(dir); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

func (l layout) chown(path string) error {
	if l.user == nil {
		return nil
	}
	return os.Lchown(path, int(l.user.UID), int(l.user.GID))
}

func (l layout) home() string {
	if l.user != nil {
		return l.user.Home
	}
	home, _ := os.UserHomeDir() // may be unset; the server does not need it
	return home
}

// makeParents is MkdirAll with modes that do not depend on the umask: the server's user has to pass.
func makeParents(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeParents(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o711)
}

// checkParents finds the folder that the server's user cannot pass: the server would only say
// "permission denied".
func checkParents(dir string, user *child.User) error {
	if user == nil {
		return nil
	}
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !passable(p, st, user) {
			return fmt.Errorf("user %s, who runs the server, cannot pass through %s, a parent of %s; allow it with: chmod o+x %s (or choose another state.directory)", user.Name, p, dir, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func passable(path string, st fs.FileInfo, user *child.User) bool {
	sys := st.Sys().(*syscall.Stat_t)
	bit := fs.FileMode(0o001)
	if sys.Uid == user.UID {
		bit = 0o100
	} else if inGroup(user, sys.Gid) {
		bit = 0o010
	}
	if st.Mode().Perm()&bit != 0 {
		return true
	}
	// With an ACL the bits do not tell: let the server find out.
	n, err := syscall.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}

func inGroup(u *child.User, gid uint32) bool {
	return u.GID == gid || slices.Contains(u.Groups, gid)
}

// socketDir is beside the cluster, if the socket's path fits; else a short one that its hash makes its
// own.
func socketDir(dir string) (string, error) {
	sum := sha256.Sum256([]byte(dir))
	short := "attune-" + hex.EncodeToString(sum[:6])
	choices := []string{filepath.Join(dir, "run")}
	if os.Geteuid() == 0 {
		choices = append(choices, filepath.Join("/run", short))
	} else if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		choices = append(choices, filepath.Join(run, short))
	}
	choices = append(choices, filepath.Join(os.TempDir(), short))
	for _, c := range choices {
		if len(filepath.Join(c, ".s.PGSQL."+port)) > maxSocketPath || strings.Contains(c, ",") {
			continue
		}
		if st, err := os.Stat(filepath.Dir(c)); err == nil && st.IsDir() {
			return c, nil
		}
	}
	return "", fmt.Errorf("the path of its socket would be longer than %d bytes; choose a shorter state.directory than %s", maxSocketPath, dir)
}

// lock keeps two starts of one cluster apart.
func (l layout) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.dir, "start.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %v", f.Name(), err)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another start of the cluster in %s is under way: %w", l.dir, ctx.Err())
		}
	}
}

// readSecret gives the role's password, made at the first start. A finished cluster without one cannot
// be entered any more.
func (l layout) readSecret() (string, error) {
	data, err := os.ReadFile(l.secretFile)
	if err == nil {
		if s := strings.TrimSpace(string(data)); s != "" {
			return s, nil
		}
		err = fs.ErrNotExist // a crash while it was written, before there was a cluster
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the password of the cluster: %v", err)
	}
	if l.exists() {
		return "", fmt.Errorf("the password of the cluster in %s is missing: %s is gone; put it back from a backup", l.data, l.secretFile)
	}
	var b [24]byte
	rand.Read(b[:])
	secret := hex.EncodeToString(b[:])
	return secret, l.writeSecret(secret)
}

func (l layout) writeSecret(secret string) error {
	tmp := l.secretFile + ".new"
	_ = os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	err = errors.Join(err, f.Sync(), f.Close(), l.chown(tmp))
	if err != nil {
		return err
	}
	return os.Rename(tmp, l.secretFile)
}

func (l layout) exists() bool {
	_, err := os.Stat(filepath.Join(l.data, "PG_VERSION"))
	return err == nil
}

// major is the version of the cluster, 0 where there is none.
func (l layout) major() (int, error) {
	name := filepath.Join(l.data, "PG_VERSION")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if entries, err := os.ReadDir(l.data); err == nil && len(entries) > 0 {
			return 0, fmt.Errorf("%s is not empty and no cluster: it has no PG_VERSION; move it away", l.data)
		}
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s says %q, which is no version that this program knows", name, strings.TrimSpace(string(text)))
	}
	return n, nil
}

// openLog begins a new log where the last one is large.
func (l layout) openLog() (*os.File, error) {
	if st, err := os.Stat(l.log); err == nil && st.Size() > maxLog {
		if err := os.Rename(l.log, l.log+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(l.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := l.chown(l.log); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// boundLog empties the log of a running server, which appends to it, after keeping a copy.
func (l layout) boundLog() {
	st, err := os.Stat(l.log)
	if err != nil || st.Size() <= maxLog {
		return
	}
	if data, err := os.ReadFile(l.log); err == nil {
		_ = os.WriteFile(l.log+".1", data, 0o600)
	}
	_ = os.Truncate(l.log, 0)
}

// lastLog gives the log's last lines in one, for an error.
func (l layout) lastLog() string {
	f, err := os.Open(l.log)
	if err != nil {
		return "(nothing)"
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "(nothing)"
	}
	from := max(0, st.Size()-logTail)
	buf := make([]byte, st.Size()-from)
	n, _ := f.ReadAt(buf, from)
	lines := bytes.Split(bytes.TrimSpace(buf[:n]), []byte("\n"))
	const shown = 4
	lines = lines[max(0, len(lines)-shown):]
	return child.Sanitize(bytes.Join(lines, []byte(" | ")))
}
