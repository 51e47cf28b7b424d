package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// The ways of hearing of changes.
const (
	watchInotify = "inotify"
	watchPoll    = "poll"
)

// coverage is told of every folder before it is listed: what changes later is heard of, so that no
// change falls between watching and reading.
type coverage interface {
	// begin and end enclose what is told of one pack; what a pack was told to have before and has no
	// longer is forgotten at its end.
	begin(key string)
	end(key string)
	// folder covers a folder of a pack: whatever changes in it is a change of the pack.
	folder(key, dir string, id identity)
	// packs covers a packs folder: its entries are packs, by the key root/name.
	packs(root, dir string, id identity)
	// name covers one entry of a folder, ignored name or not: a link on the way to a pack.
	name(key, path string)
	// holds says that these folders, and nothing else, are covered for a pack.
	holds(key string, dirs []dir) bool
}

// uncovered is for scans that nobody waits for changes after.
type uncovered struct{}

func (uncovered) begin(string)                    {}
func (uncovered) end(string)                      {}
func (uncovered) folder(string, string, identity) {}
func (uncovered) packs(string, string, identity)  {}
func (uncovered) name(string, string)             {}
func (uncovered) holds(string, []dir) bool        { return true }

// watcher turns changes of folders into open windows. It watches folders, never files, because
// editors replace files; and it never reads one: an event only says that a pack is to be looked at.
//
// mu is never held while fsnotify is called: its reader may be waiting for ours.
type watcher struct {
	logger  *slog.Logger
	metrics *metrics
	wake    func() // something may be due; never blocks
	// what is watched, for messages; ignored are names whose changes concern nobody.
	what    string
	ignored func(name string) bool
	// open makes fsnotify's watcher.
	open func() (*fsnotify.Watcher, error)

	// notify is nil while polling. Only the reconciler's goroutine changes it.
	notify *fsnotify.Watcher
	reader sync.WaitGroup
	reason string
	remote string // see also

	mu      sync.Mutex
	windows *windows
	// watched are the folders that were given a watch.
	watched map[string]identity
	// folders, roots and names say whom an event concerns.
	folders map[string][]string // folder -> keys of packs
	roots   map[string][]string // folder -> packs folders
	names   map[string][]string // path -> keys
	covers  map[string]*cover
	// broken says that watches no longer report the paths that they were made for.
	broken bool
	// lost says that events were lost, and among them maybe that of a folder's end. It can wait for
	// the scan that follows: in a storm of changes more are lost than there is time to repair.
	lost bool
}

// cover is what belongs to one pack, or (key everything) to the packs folders.
type cover struct {
	folders, roots, names []string // now
	// was holds the lists from before begin.
	was *cover
}

func newWatcher(w *windows, logger *slog.Logger, m *metrics, wake func()) *watcher {
	return &watcher{
		logger: logger, metrics: m, wake: wake, open: fsnotify.NewWatcher, what: "the packs folder", ignored: ignored,
		windows: w, watched: map[string]identity{},
		folders: map[string][]string{}, roots: map[string][]string{}, names: map[string][]string{},
		covers: map[string]*cover{},
	}
}

// start begins to watch, or to poll where the machine does not let it.
func (w *watcher) start() {
	notify, err := w.open()
	if err != nil {
		w.poll(err)
		return
	}
	w.notify, w.reason = notify, ""
	w.metrics.watchMode(watchInotify)
	if w.remote != "" {
		w.metrics.watchMode(watchInotify, watchPoll)
	}
	w.reader.Go(func() { w.read(notify) })
}

// stop ends the watches and waits for the reader.
func (w *watcher) stop() {
	if w.notify != nil {
		if err := w.notify.Close(); err != nil {
			w.logger.Warn("cannot close the file watcher", "err", err)
		}
		w.notify = nil
	}
	w.reader.Wait()
	w.mu.Lock()
	clear(w.watched)
	w.mu.Unlock()
}

// mode is watchInotify or watchPoll.
func (w *watcher) mode() string {
	if w.notify == nil {
		return watchPoll
	}
	return watchInotify
}

// poll gives up watching: it is said once, with the way out.
func (w *watcher) poll(cause error) {
	w.stop()
	hint := ""
	switch {
	case errors.Is(cause, unix.ENOSPC):
		hint = "raise the sysctl fs.inotify.max_user_watches, then send SIGHUP"
	case errors.Is(cause, unix.EMFILE):
		hint = "raise the sysctl fs.inotify.max_user_instances, then send SIGHUP"
	case errors.Is(cause, unix.ENFILE):
		hint = "raise the sysctl fs.file-max, then send SIGHUP"
	default:
		hint = "send SIGHUP to try again"
	}
	reason := fmt.Sprintf("cannot watch %s: %v; %s", w.what, cause, hint)
	if reason != w.reason {
		w.logger.Warn("packs folder is polled", "err", reason)
	}
	w.reason = reason
	w.metrics.watchMode(watchPoll)
}

// also says on which file system the packs are, where that does not tell this machine of all changes;
// empty: it does. Then folders are watched, because most edits are heard of, and polled too.
func (w *watcher) also(remote string, every time.Duration) {
	if remote == w.remote {
		return
	}
	w.remote = remote
	if w.notify == nil {
		return
	}
	if remote == "" {
		w.logger.Info("packs folder is no longer polled")
		w.metrics.watchMode(watchInotify)
		return
	}
	w.logger.Warn("packs folder is polled too", "err", remoteReason(remote, every))
	w.metrics.watchMode(watchInotify, watchPoll)
}

func remoteReason(remote string, every time.Duration) string {
	return fmt.Sprintf("the packs folder is on %s, where not all changes are told: it is scanned each %s too", remote, every)
}

// repair makes all watches anew where they no longer say what is true: a renamed folder's watches go
// on reporting its old path, and a second folder under that path cannot be watched. It says whether
// it did; then changes may have been missed.
func (w *watcher) repair(thorough bool) bool {
	if w.notify == nil {
		return false
	}
	w.mu.Lock()
	broken := w.broken || w.lost
	w.broken, w.lost = false, false
	if thorough && !broken {
		broken = !w.agrees(w.notify.WatchList())
	}
	w.mu.Unlock()
	if !broken {
		return false
	}
	w.rebuild()
	return true
}

// isBroken says that repair has something to do that cannot wait.
func (w *watcher) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken && w.notify != nil
}

// agrees compares the watches that there are with those that there should be: one for each folder,
// under a path of it. A folder that is mounted at two places has two paths and one watch. mu must be
// held.
func (w *watcher) agrees(list []string) bool {
	distinct := map[identity]struct{}{}
	for _, id := range w.watched {
		distinct[id] = struct{}{}
	}
	if len(list) != len(distinct) {
		return false
	}
	return !slices.ContainsFunc(list, func(dir string) bool {
		_, ok := w.watched[dir]
		return !ok
	})
}

// rebuild closes all watches. Those of the folders that a scan still finds are made by that scan.
func (w *watcher) rebuild() {
	w.stop()
	w.start()
}

// begin notes what a pack covered, so that end can tell what it no longer covers.
func (w *watcher) begin(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.covers[key]
	if was == nil {
		was = &cover{}
	}
	was.was = nil
	w.covers[key] = &cover{was: was}
}

func (w *watcher) folder(key, dir string, id identity) {
	w.mu.Lock()
	c := w.covers[key]
	c.folders = append(c.folders, dir)
	w.folders[dir] = with(w.folders[dir], key)
	w.mu.Unlock()
	w.watch(dir, id)
}

func (w *watcher) packs(root, dir string, id identity) {
	w.mu.Lock()
	c := w.covers[everything]
	c.roots = append(c.roots, dir)
	w.roots[dir] = with(w.roots[dir], root)
	w.mu.Unlock()
	w.watch(dir, id)
}

func (w *watcher) name(key, path string) {
	w.mu.Lock()
	c := w.covers[key]
	c.names = append(c.names, path)
	w.names[path] = with(w.names[path], key)
	w.mu.Unlock()
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return // the scan tells what it cannot reach
	}
	w.watch(dir, markOf(info).identity())
}

func (w *watcher) holds(key string, dirs []dir) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.covers[key]
	if c == nil || len(c.folders) != len(dirs) || len(c.roots)+len(c.names) > 0 {
		return false
	}
	for i := range dirs {
		if c.folders[i] != dirs[i].path {
			return false
		}
		if w.notify == nil {
			continue
		}
		if id, ok := w.watched[dirs[i].path]; !ok || id != dirs[i].mark.identity() {
			return false
		}
	}
	return true
}

// end forgets what the pack no longer covers.
func (w *watcher) end(key string) {
	w.mu.Lock()
	c := w.covers[key]
	for _, dir := range c.was.folders {
		if !slices.Contains(c.folders, dir) {
			without(w.folders, dir, key)
		}
	}
	for _, dir := range c.was.roots {
		if !slices.Contains(c.roots, dir) {
			delete(w.roots, dir)
		}
	}
	for _, path := range c.was.names {
		if !slices.Contains(c.names, path) {
			without(w.names, path, key)
		}
	}
	left := slices.Concat(c.was.folders, c.was.roots)
	for _, path := range c.was.names {
		left = append(left, filepath.Dir(path))
	}
	c.was = nil
	if len(c.folders)+len(c.roots)+len(c.names) == 0 {
		delete(w.covers, key)
	}
	var drop []string
	for _, dir := range left {
		if _, ok := w.watched[dir]; ok && !w.wanted(dir) {
			delete(w.watched, dir)
			drop = append(drop, dir)
		}
	}
	w.mu.Unlock()
	if w.notify == nil {
		return
	}
	for _, dir := range drop {
		// It fails where the folder is gone, and the watch with it.
		_ = w.notify.Remove(dir)
	}
}

// wanted says whether a folder concerns anyone. mu must be held.
func (w *watcher) wanted(dir string) bool {
	if w.folders[dir] != nil || w.roots[dir] != nil {
		return true
	}
	for path := range w.names { // few: the packs folders, and packs that are links
		if filepath.Dir(path) == dir {
			return true
		}
	}
	return false
}

// watch adds a watch where there is none yet. Only the reconciler's goroutine calls it.
func (w *watcher) watch(dir string, id identity) {
	if w.notify == nil {
		return
	}
	w.mu.Lock()
	known, ok := w.watched[dir]
	if ok && known != id {
		w.broken = true // another folder stands here now, and the old one's watch is in its place
	}
	w.mu.Unlock()
	if ok {
		return
	}
	err := w.notify.Add(dir)
	switch {
	case err == nil:
		w.mu.Lock()
		w.watched[dir] = id
		w.mu.Unlock()
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENOMEM):
		w.poll(err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, fs.ErrPermission):
		// Gone again, or not readable: the scan tells.
	default:
		w.logger.Warn("cannot watch a folder", "path", dir, "err", err)
	}
}

// read hands every event to note until the watcher is closed. It does nothing else, because while it
// does, the kernel's queue fills.
func (w *watcher) read(notify *fsnotify.Watcher) {
	for {
		select {
		case event, ok := <-notify.Events:
			if !ok {
				return
			}
			w.note(event, time.Now())
		case err, ok := <-notify.Errors:
			if !ok {
				return
			}
			w.failed(err, time.Now())
		}
	}
}

// failed is for errors of the watcher: whatever was lost, a scan of all finds.
func (w *watcher) failed(err error, now time.Time) {
	overflowed := errors.Is(err, fsnotify.ErrEventOverflow)
	w.mu.Lock()
	w.windows.note(everything, "", changed, now)
	before := w.lost
	w.lost = true
	w.mu.Unlock()
	w.wake()
	switch {
	case !overflowed:
		w.logger.Warn("file watcher failed", "err", err)
	case !before: // in a storm there is one after the other, and one scan for many of them
		w.logger.Warn("file events were lost, all packs are scanned", "err", "the kernel's queue overflowed",
			"hint", "if it comes often, raise the sysctl fs.inotify.max_queued_events")
	}
	if overflowed {
		w.metrics.overflows.Inc()
	}
}

// note opens the windows of those whom an event concerns.
func (w *watcher) note(event fsnotify.Event, now time.Time) {
	if event.Name == "" {
		return // of a watch that was just removed
	}
	what := changed
	switch {
	case event.Has(fsnotify.Remove), event.Has(fsnotify.Rename):
		what = vanishing
	case event.Has(fsnotify.Create):
		what = appeared
	}
	w.mu.Lock()
	if _, ok := w.watched[event.Name]; ok && what == vanishing {
		// The watch went with the folder. After a rename its subfolders' watches are left, under
		// paths that are no longer theirs.
		delete(w.watched, event.Name)
		w.broken = w.broken || event.Has(fsnotify.Rename)
	}
	keys := w.concerned(event.Name)
	for _, key := range keys {
		w.windows.note(key, event.Name, what, now)
	}
	w.mu.Unlock()
	if len(keys) > 0 {
		w.wake()
	}
}

// concerned gives the keys of those whom a change of path concerns. mu must be held.
func (w *watcher) concerned(path string) []string {
	keys := slices.Clone(w.names[path])
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	keys = append(keys, w.folders[path]...) // the folder itself: its mode
	if w.roots[path] != nil {
		keys = append(keys, everything)
	}
	if !w.ignored(name) {
		keys = append(keys, w.folders[dir]...)
		for _, root := range w.roots[dir] {
			keys = append(keys, filepath.Join(root, name))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// due closes the windows that are quiet.
func (w *watcher) due(now time.Time) (since map[string]time.Time, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.windows.due(now, isWhole)
}

func (w *watcher) take() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.windows.take()
}

func (w *watcher) again(key string, after time.Duration, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.windows.again(key, now.Add(after), now)
}

func (w *watcher) isOpen(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.windows.isOpen(key)
}

// isWhole says that a path that has just appeared has its content: a file that is not empty, or a
// link, which cannot be otherwise.
func isWhole(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	return info.Mode()&fs.ModeSymlink != 0 || info.Mode().IsRegular() && info.Size() > 0
}

func with(list []string, one string) []string {
	if slices.Contains(list, one) {
		return list
	}
	return append(list, one)
}

func without(lists map[string][]string, at, one string) {
	rest := slices.DeleteFunc(lists[at], func(other string) bool { return other == one })
	if len(rest) == 0 {
		delete(lists, at)
	} else {
		lists[at] = rest
	}
}

// unwatchable are the kinds of file system on which a change made elsewhere is not told to this
// machine's kernel, so that watching alone is not enough.
var unwatchable = map[int64]string{
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.SMB_SUPER_MAGIC:       "smb",
	unix.SMB2_SUPER_MAGIC:      "smb",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.CEPH_SUPER_MAGIC:      "ceph",
	unix.AFS_SUPER_MAGIC:       "afs",
	unix.V9FS_MAGIC:            "9p",
}

// unwatchableKind names the file system of a folder if it is of that kind; else empty.
func unwatchableKind(dir string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return ""
	}
	return unwatchable[int64(stat.Type)] //nolint:unconvert // the field's type differs between architectures
}
