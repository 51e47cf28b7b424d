package reconcile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// unfinished begins the names of folders that are being made or removed.
	unfinished = ".unfinished-"
	// retireGrace keeps a folder that was changed: children may run in it for as long as the usual
	// timeouts allow. The next start of the daemon removes what is left.
	retireGrace = time.Hour
	// pruneGrace keeps a folder that somebody just asked for: a child may be about to start in it.
	pruneGrace = 10 * time.Minute
)

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Revisions holds the files of applied revisions in the state directory, each under its digest,
// read-only: what children run from. It is safe for concurrent use; callers that want the same
// revision share one making of it.
type Revisions struct {
	dir    string
	store  *store.Store
	logger *slog.Logger

	mu sync.Mutex
	// made are the folders that this process has made or verified, and when each was last asked for.
	made map[string]time.Time
	// given are those that this process has handed out.
	given map[string]bool
	// unwatched says that some folder could not be watched.
	unwatched bool
	// making are those at work; the channel is closed at the end.
	making map[string]chan struct{}
	// guard says which of the made ones have been changed since, by a child that may do that.
	guard *guard
	// retired are folders that were changed while children may have run in them.
	retired []retired
	// copies has a place of each content that stands in a made folder, for reflinks.
	copies map[string]string
}

// retired is a changed folder that was moved away.
type retired struct {
	path string
	at   time.Time
}

// NewRevisions keeps revisions under dir (made with mode 0755, so that a child of another user can
// read them). s may be nil where every revision is Put.
func NewRevisions(dir string, s *store.Store, logger *slog.Logger) (*Revisions, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the revisions' folder: %v", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the revisions' folder: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return nil, fmt.Errorf("cannot open the revisions' folder to children: %v", err)
	}
	r := &Revisions{
		dir: dir, store: s, logger: logger.With("component", "revisions"),
		made: map[string]time.Time{}, given: map[string]bool{}, making: map[string]chan struct{}{}, copies: map[string]string{},
	}
	if r.guard, err = newGuard(); err != nil {
		r.logger.Warn("changes of revisions by children that run as root are not noticed until the daemon starts again", "err", err)
	}
	// What a killed daemon left behind is nobody's.
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot look for unfinished revisions: %v", err)
	}
	for _, one := range left {
		if err := removeTree(one); err != nil {
			r.logger.Warn("cannot remove an unfinished revision", "err", err)
		}
	}
	return r, nil
}

// Close ends the watching of revisions' folders. What children change from then on is not noticed.
func (r *Revisions) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guard.close()
	r.guard = nil
}

// Dir gives the folder of a revision's files, made from the database and verified at first need.
func (r *Revisions) Dir(ctx context.Context, revisionID int64, digest string) (string, error) {
	dir, err := r.ensure(ctx, digest, func() ([]store.TreeEntry, contentFunc, error) {
		if r.store == nil {
			return nil, nil, store.ErrNotFound
		}
		_, tree, err := r.store.RevisionTree(ctx, revisionID)
		content := func(digest string) ([]byte, error) { return r.store.FileContent(ctx, digest) }
		return tree, content, err
	})
	if err != nil {
		return "", fmt.Errorf("cannot make the files of revision %d: %w", revisionID, err)
	}
	return dir, nil
}

// Put makes the folder of a revision that is about to be applied, from the packs folder's files, so
// that the first start need not read the database.
func (r *Revisions) Put(ctx context.Context, digest string, tree []store.TreeEntry, content func(digest string) ([]byte, error)) (string, error) {
	dir, err := r.ensure(ctx, digest, func() ([]store.TreeEntry, contentFunc, error) { return tree, content, nil })
	if err != nil {
		return "", fmt.Errorf("cannot make the files of a revision: %w", err)
	}
	return dir, nil
}

type contentFunc = func(digest string) ([]byte, error)

// ensure gives a revision's folder, making it where it is not there or not what its name says.
func (r *Revisions) ensure(ctx context.Context, digest string, source func() ([]store.TreeEntry, contentFunc, error)) (string, error) {
	dir := filepath.Join(r.dir, digest)
	for {
		r.mu.Lock()
		r.noticeChanges()
		if _, ok := r.made[digest]; ok {
			if _, err := os.Lstat(dir); err == nil {
				r.made[digest] = time.Now()
				r.mu.Unlock()
				return dir, nil
			}
			delete(r.made, digest) // somebody removed it
		} else if !digestPattern.MatchString(digest) {
			r.mu.Unlock()
			return "", fmt.Errorf("%q is no digest", digest)
		}
		busy := r.making[digest]
		if busy == nil {
			break
		}
		r.mu.Unlock()
		select {
		case <-busy: // look again: it may have failed for a reason of its caller's alone
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	done := make(chan struct{})
	r.making[digest] = done
	r.mu.Unlock()

	tree, err := r.make(ctx, dir, digest, source)

	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.making, digest)
	close(done)
	if err != nil {
		return "", err
	}
	r.made[digest], r.given[digest] = time.Now(), true
	for _, entry := range tree {
		if entry.Digest != "" {
			r.copies[entry.Digest] = filepath.Join(dir, entry.Path)
		}
	}
	return dir, nil
}

func (r *Revisions) make(ctx context.Context, dir, digest string, source func() ([]store.TreeEntry, contentFunc, error)) ([]store.TreeEntry, error) {
	r.watch(dir, digest) // before it is looked at
	there, changed, err := verify(dir, digest)
	if err != nil || there != nil {
		return there, err
	}
	if changed {
		r.logger.Warn("revision's files were changed and are made anew; a child that runs as root, or as their owner, did that", "path", dir)
		remove := r.discard
		if r.wasGiven(digest) {
			remove = r.retire
		}
		if err := remove(dir); err != nil {
			return nil, err
		}
	}
	tree, content, err := source()
	if err != nil {
		return nil, err
	}
	tree = slices.SortedFunc(slices.Values(tree), func(a, b store.TreeEntry) int { return cmp.Compare(a.Path, b.Path) })
	if got := treeDigest(tree); got != digest {
		return nil, fmt.Errorf("its list of files has digest %s, expected %s", got, digest)
	}
	temp, err := os.MkdirTemp(r.dir, unfinished+"*")
	if err != nil {
		return nil, plainPath(err)
	}
	if err := r.write(ctx, temp, tree, content); err != nil {
		if err := removeTree(temp); err != nil {
			r.logger.Warn("cannot remove an unfinished revision", "err", err)
		}
		return nil, err
	}
	// Nothing is synced: after a crash of the machine the digest tells what is not whole.
	if err := os.Rename(temp, dir); err != nil {
		return nil, errors.Join(plainPath(err), removeTree(temp))
	}
	r.watch(dir, digest)
	return tree, nil
}

// verify reads back a revision's folder. It gives its tree where that is what the digest says, or else
// whether anything stands there. Whatever makes the folder unreadable was done to it, unless this process
// is short of something: then nothing is known of the folder, and it stays.
func verify(dir, digest string) (there []store.TreeEntry, changed bool, err error) {
	there, err = readTree(dir)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		return nil, false, plainPath(err)
	}
	if err == nil && treeDigest(there) == digest {
		return there, false, nil
	}
	_, err = os.Lstat(dir)
	return nil, !errors.Is(err, fs.ErrNotExist), nil
}

// noticeChanges has those looked through at their next need that were changed. It needs r.mu.
func (r *Revisions) noticeChanges() {
	changed, all := r.guard.changed()
	if all {
		clear(r.made)
	}
	for digest := range changed {
		delete(r.made, digest)
	}
}

func (r *Revisions) watch(dir, digest string) {
	r.mu.Lock()
	err := r.guard.watch(dir, digest)
	told := r.unwatched
	r.unwatched = r.unwatched || err != nil && !errors.Is(err, fs.ErrNotExist)
	news := r.unwatched && !told
	r.mu.Unlock()
	if news {
		r.logger.Warn("not all changes of revisions by children are noticed", "err", err)
	}
}

// abandon forgets what is known of a folder that is about to go. It needs r.mu.
func (r *Revisions) abandon(dir string) {
	r.guard.forget(filepath.Base(dir))
	for content, at := range r.copies {
		if strings.HasPrefix(at, dir+"/") {
			delete(r.copies, content)
		}
	}
}

// wasGiven says whether children of this process may run in a revision's folder.
func (r *Revisions) wasGiven(digest string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.given[digest]
}

// aside is where a folder is moved to that is to be removed: never where something is left of another.
func (r *Revisions) aside(digest string, now time.Time) string {
	return fmt.Sprintf("%s-%d", filepath.Join(r.dir, unfinished+digest), now.UnixNano())
}

// retire moves a changed folder away. Children may still run in it, so it is removed only when all of
// them should have ended.
func (r *Revisions) retire(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandon(dir)
	now := time.Now()
	away := r.aside(filepath.Base(dir), now)
	if err := os.Rename(dir, away); err != nil {
		return plainPath(err)
	}
	r.retired = slices.DeleteFunc(append(r.retired, retired{away, now}), func(one retired) bool {
		return now.Sub(one.at) > retireGrace && removeTree(one.path) == nil
	})
	return nil
}

// write makes the files of a tree in an empty folder, and then everything read-only.
func (r *Revisions) write(ctx context.Context, temp string, tree []store.TreeEntry, content contentFunc) error {
	root, err := os.OpenRoot(temp)
	if err != nil {
		return plainPath(err)
	}
	defer root.Close()
	dirs := map[string]bool{".": true}
	for _, entry := range tree {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !filepath.IsLocal(entry.Path) || entry.Path != path.Clean(entry.Path) {
			return fmt.Errorf("%q is no path in a pack", entry.Path)
		}
		for dir := path.Dir(entry.Path); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		if err := root.MkdirAll(path.Dir(entry.Path), 0o755); err != nil {
			return plainPath(err)
		}
		if err := r.entry(root, entry, content); err != nil {
			return fmt.Errorf("cannot write %s: %w", entry.Path, err)
		}
	}
	// The deepest first: a folder without w bit takes no more changes from an ordinary user.
	for _, dir := range slices.Backward(sortedKeys(dirs)) {
		if err := root.Chmod(dir, 0o555); err != nil {
			return plainPath(err)
		}
	}
	return nil
}

func (r *Revisions) entry(root *os.Root, entry store.TreeEntry, content contentFunc) error {
	if entry.Link != "" {
		if !staysInside(entry.Path, entry.Link) {
			return errEscapes
		}
		return root.Symlink(entry.Link, entry.Path)
	}
	f, err := root.OpenFile(entry.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	cloned, err := r.reflink(f, entry.Digest)
	if err != nil {
		return err
	}
	if !cloned {
		data, err := content(entry.Digest)
		if err != nil {
			return err
		}
		if got := digestOf(data); got != entry.Digest {
			return fmt.Errorf("its content has digest %s, expected %s", got, entry.Digest)
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o444)
	if entry.Executable {
		mode = 0o555
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Close() // a full disk or a quota may be told only here
}

// reflink shares the blocks of a file that another revision has, where the file system can. What it
// gives is verified like anything else. A hard link would do on any, but then one child that gets
// around the mode would rewrite the past.
func (r *Revisions) reflink(f *os.File, digest string) (cloned bool, err error) {
	r.mu.Lock()
	from, ok := r.copies[digest]
	r.mu.Unlock()
	if !ok {
		return false, nil
	}
	// It may no longer be the file that was written there: a pipe is not waited for.
	source, err := os.OpenFile(from, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, nil // the content is asked for instead
	}
	defer source.Close()
	if err := unix.IoctlFileClone(int(f.Fd()), int(source.Fd())); err != nil {
		return false, nil // most file systems cannot
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	if hex.EncodeToString(h.Sum(nil)) == digest {
		return true, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	return false, f.Truncate(0)
}

// errNoRevision says that what stands in a revision's folder was never put there by us.
var errNoRevision = errors.New("it is no revision")

// readTree reads back what stands in a revision's folder, sorted by path. It reads no more than a revision
// can hold, and opens nothing but files.
func readTree(dir string) ([]store.TreeEntry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var tree []store.TreeEntry
	left := int64(maxPackBytes)
	err = fs.WalkDir(root.FS(), ".", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if len(tree) >= maxPackFiles {
			return errNoRevision
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			target, err := root.Readlink(at)
			tree = append(tree, store.TreeEntry{Path: at, Link: target})
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if left -= info.Size(); left < 0 || !info.Mode().IsRegular() {
			return errNoRevision
		}
		read, err := readFile(root, at, false, maxPackBytes)
		if err != nil {
			return err
		}
		tree = append(tree, store.TreeEntry{
			Path: at, Executable: read.mark.executable(), Digest: read.digest, Size: read.mark.size,
		})
		return nil
	})
	slices.SortFunc(tree, func(a, b store.TreeEntry) int { return cmp.Compare(a.Path, b.Path) })
	return tree, err
}

// Prune removes the folders that keep does not name, but for those that were asked for just now.
func (r *Revisions) Prune(keep map[string]bool) (removed int, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return 0, fmt.Errorf("cannot list the revisions' folder: %v", err)
	}
	var errs []error
	for _, entry := range entries {
		digest := entry.Name()
		if !digestPattern.MatchString(digest) || keep[digest] {
			continue
		}
		gone, err := r.prune(digest)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot remove revision %s: %w", digest, err))
		}
		if gone {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}

// prune moves a folder away under the lock, so that nobody is given it while it is being removed.
func (r *Revisions) prune(digest string) (bool, error) {
	r.mu.Lock()
	asked, made := r.made[digest]
	if r.making[digest] != nil || made && time.Since(asked) < pruneGrace {
		r.mu.Unlock()
		return false, nil
	}
	delete(r.made, digest)
	dir := filepath.Join(r.dir, digest)
	r.abandon(dir)
	away := r.aside(digest, time.Now())
	err := os.Rename(dir, away)
	r.mu.Unlock()
	if err != nil {
		return false, plainPath(err)
	}
	return true, removeTree(away)
}

// discard removes a folder that is in nobody's use.
func (r *Revisions) discard(dir string) error {
	r.mu.Lock()
	r.abandon(dir)
	r.mu.Unlock()
	away := r.aside(filepath.Base(dir), time.Now())
	if err := os.Rename(dir, away); err != nil {
		return plainPath(err)
	}
	// It is out of the way: what of it cannot be removed does not keep its place from being taken.
	if err := removeTree(away); err != nil {
		r.logger.Warn("cannot remove a changed revision", "err", err)
	}
	return nil
}

// removeTree removes a folder whose subfolders are read-only.
func removeTree(dir string) error {
	err := filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(at, 0o700)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return plainPath(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return plainPath(err)
	}
	return nil
}

// plainPath is a path error without its system call's name, which tells an operator nothing.
func plainPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return fmt.Errorf("%s: %w", l.New, l.Err)
	}
	return err
}
