package worker

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
)

// settled is how old the last change of a folder has to be so that a later one is seen by its time: file
// systems count in steps of up to two seconds.
const settled = 3 * time.Second

// temps hands out folders for attempts' temporary files. A folder that an attempt left as it got it is
// handed out again: making and removing one takes the file system longer than all else that an attempt
// needs of it, for it does not like to give the number of a removed file away again at once.
type temps struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	free  map[int][]string // empty ones, by owner
	looks map[string]look  // of each folder, when it was last found empty
}

// look is what shows whether anything about a folder has changed: entries, rights, owner and attributes all
// set the time of the last change, which nobody can set back.
type look struct {
	dev, ino uint64
	changed  unix.Timespec
	// proves says that the change was long enough ago.
	proves bool
}

func lookAt(dir string) (l look, ok bool) {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil {
		return look{}, false
	}
	return look{dev: st.Dev, ino: st.Ino, changed: st.Ctim, proves: time.Since(time.Unix(st.Ctim.Unix())) > settled}, true
}

// take gives an empty folder that is the owner's alone.
func (t *temps) take(owner *child.User) (string, error) {
	uid := uidOf(owner)
	t.mu.Lock()
	if list := t.free[uid]; len(list) > 0 {
		dir := list[len(list)-1]
		t.free[uid] = list[:len(list)-1]
		t.mu.Unlock()
		// Somebody may have tidied up.
		if t.isPristine(dir, uid) {
			return dir, nil
		}
		t.discard(dir)
	} else {
		t.mu.Unlock()
	}
	dir, err := os.MkdirTemp(t.dir, tempPrefix)
	if err != nil {
		return "", fmt.Errorf("cannot make a folder for temporary files: %w", err)
	}
	if err := child.GiveFolder(dir, owner); err != nil {
		t.remove(dir)
		return "", err
	}
	return dir, nil
}

func (t *temps) remove(dir string) {
	if err := child.RemoveFolder(dir); err != nil {
		t.log.Warn("cannot remove the folder of an attempt, it is tried again at the next start", "err", err)
	}
}

// back takes a folder back. Where something may still live that knows it, it is not to be kept.
func (t *temps) back(dir string, owner *child.User, keep bool) {
	uid := uidOf(owner)
	if !keep || !t.isPristine(dir, uid) {
		t.discard(dir)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free == nil {
		t.free = map[int][]string{}
	}
	t.free[uid] = append(t.free[uid], dir)
}

func (t *temps) discard(dir string) {
	t.remove(dir)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.looks, dir)
}

// isPristine looks into a folder only where it may have changed since it was last looked into.
func (t *temps) isPristine(dir string, uid int) bool {
	now, ok := lookAt(dir)
	t.mu.Lock()
	last := t.looks[dir]
	t.mu.Unlock()
	if ok && last.proves && now == last {
		return true
	}
	// What was noted comes from before the look inside: a change meanwhile shows.
	if !ok || !pristine(dir, uid) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.looks == nil {
		t.looks = map[string]look{}
	}
	t.looks[dir] = now
	return true
}

// clear removes the folders that nobody has.
func (t *temps) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, list := range t.free {
		for _, dir := range list {
			t.remove(dir)
		}
	}
	t.free, t.looks = nil, nil
}

func uidOf(owner *child.User) int {
	if owner == nil {
		return os.Geteuid()
	}
	return int(owner.UID)
}

// pristine tells whether a folder is as take made it: empty, its owner's alone, without further rights
// or attributes.
func pristine(dir string, uid int) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || int(st.Uid) != uid || st.Mode&0o7777 != 0o700 {
		return false
	}
	var names [512]byte
	n, err := unix.Flistxattr(fd, names[:])
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return false
	}
	for name := range bytes.SplitSeq(names[:max(n, 0)], []byte{0}) {
		if len(name) > 0 && !bytes.HasPrefix(name, []byte("security.")) {
			return false
		}
	}
	return isEmpty(fd)
}

// isEmpty tells whether an open folder, of which nothing was read, has nothing in it.
func isEmpty(fd int) bool {
	var entries [512]byte
	n, err := unix.Getdents(fd, entries[:])
	if err != nil {
		return false
	}
	// "." and ".." are all there is.
	_, count, _ := unix.ParseDirent(entries[:n], 1, nil)
	return count == 0
}

// resolved remembers the real paths of entry points: the files of a revision never change, and finding
// out that no link leads out of the pack takes a look at each folder above.
type resolved struct {
	mu    sync.Mutex
	paths map[string]string
}

// maxResolved bounds it; a full one starts anew.
const maxResolved = 4096

func (r *resolved) entryPoint(dir, name string) (string, error) {
	key := filepath.Join(dir, "actions") + "\x00" + name
	r.mu.Lock()
	path, ok := r.paths[key]
	r.mu.Unlock()
	if ok {
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		}
	}
	path, err := entryPoint(dir, name)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths == nil || len(r.paths) >= maxResolved {
		r.paths = map[string]string{}
	}
	r.paths[key] = path
	return path, nil
}

// ready remembers the revisions whose files are in place: an attempt that runs from one starts at once.
type ready struct {
	mu   sync.Mutex
	list []int64
}

// maxReady bounds it: the oldest are forgotten.
const maxReady = 64

func (r *ready) add(revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.list, revision) {
		return
	}
	// A new list: who was given the old one may still read it.
	list := append([]int64{revision}, r.list...)
	r.list = list[:min(len(list), maxReady)]
}

func (r *ready) revisions() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}
