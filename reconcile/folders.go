package reconcile

import (
	"log/slog"
	"os"
	"slices"
	"time"
)

// Folders hears of changes in folders that are no packs, in the way in which packs are watched: it knows
// of folders that were renamed or replaced, of events that were lost, and of machines that let nobody
// watch. What changed it does not say, only where to look.
//
// Everything but Changed is for one goroutine. For each key Begin, then Cover for each folder before it is
// listed, then End: so no change falls between watching and reading.
type Folders struct {
	w       *watcher
	changed chan struct{}
}

// foldersQuiet is how long a place is quiet before it is looked at, foldersLongest the most that constant
// changes put that off.
const (
	foldersQuiet   = 50 * time.Millisecond
	foldersLongest = time.Second
)

// WatchFolders begins to watch. It is to be closed.
func WatchFolders() *Folders {
	f := &Folders{changed: make(chan struct{}, 1)}
	wake := func() {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	// Whoever asks tells its own log: Polled says what there is to tell.
	f.w = newWatcher(newWindows(foldersQuiet, foldersLongest), slog.New(slog.DiscardHandler), newMetrics(nil), wake)
	f.w.what, f.w.ignored = "folders", func(string) bool { return false }
	f.w.start()
	return f
}

// Close ends the watches.
func (f *Folders) Close() { f.w.stop() }

// Changed has a token when something may be due.
func (f *Folders) Changed() <-chan struct{} { return f.changed }

// Begin and End enclose what is covered for a key; what was covered for it before, and is not any more,
// is forgotten at End. A key is never empty.
func (f *Folders) Begin(key string) { f.w.begin(key) }

// End is the counterpart of Begin.
func (f *Folders) End(key string) { f.w.end(key) }

// Cover has whatever changes in a folder concern the key.
func (f *Folders) Cover(key, dir string) {
	info, err := os.Stat(dir)
	if err != nil {
		return // whoever lists it is told
	}
	f.w.folder(key, dir, markOf(info).identity())
}

// CoverName has one entry of a folder concern the key, whatever it is or becomes.
func (f *Folders) CoverName(key, path string) { f.w.name(key, path) }

// Due gives the keys that are to be looked at now, and when to ask again (zero: after the next change).
// All says that every key is.
func (f *Folders) Due(now time.Time) (keys []string, all bool, next time.Time) {
	due, next := f.w.due(now)
	if f.w.repair(len(due) > 0) {
		return nil, true, next // changes may have been missed meanwhile
	}
	for key := range due {
		if key == everything {
			return nil, true, next
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, false, next
}

// Polled says why folders are not watched, and have to be looked at again and again; empty: they are.
func (f *Folders) Polled() string {
	if f.w.notify != nil {
		return ""
	}
	return f.w.reason
}

// Remote names the file system of a folder, where changes that others make are not told; else empty.
func Remote(dir string) string { return unwatchableKind(dir) }

// Leaving says whether a name is of those that editors leave behind, or hidden.
func Leaving(name string) bool { return ignored(name) }
