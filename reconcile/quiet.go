package reconcile

import (
	"time"
)

const (
	// renameQuiet is how long a single rename into place is waited for: a file that came whole needs
	// no more than its neighbours' chance to come too.
	renameQuiet = 25 * time.Millisecond
	// manyPaths is where a window stops remembering paths: only one path is ever waited for briefly.
	manyPaths = 8
)

// everything is the key under which a change is noted that may concern any pack.
const everything = ""

// change is what happened to a path, as far as it decides how long to wait.
type change int

const (
	changed   change = iota // written, or its mode
	appeared                // created, linked or renamed to here
	vanishing               // removed, or renamed to elsewhere
)

// window is open from the first change of a pack until the pack was quiet for long enough.
type window struct {
	first, last time.Time
	// paths has what was seen of each path; true: it appeared, and nothing else happened to it.
	paths map[string]bool
	// born are paths that appeared within this window where nothing was known before; when they go
	// again, nothing has come of them (an editor's temporary file).
	born map[string]bool
	slow bool
	// at is when a scan that found the pack being written asked to be repeated.
	at time.Time
}

// windows decides when a changed pack is scanned: after a quiet time, or at the latest after max.
// It is pure: the time is handed in.
type windows struct {
	quiet, max time.Duration
	open       map[string]*window
}

func newWindows(quiet, longest time.Duration) *windows {
	return &windows{quiet: quiet, max: longest, open: map[string]*window{}}
}

// note records a change of a pack.
func (w *windows) note(key, path string, what change, now time.Time) {
	one := w.at(key, now)
	one.last, one.at = now, time.Time{}
	if one.slow {
		return
	}
	switch what {
	case appeared:
		_, known := one.paths[path]
		one.paths[path] = !known
		one.born[path] = !known
	case vanishing:
		if one.born[path] {
			delete(one.paths, path)
			delete(one.born, path)
		} else {
			one.paths[path] = false
		}
	case changed:
		one.paths[path] = false
	}
	one.slow = len(one.paths) > manyPaths
}

// again asks for a scan at a time, because the last one found the pack being written.
func (w *windows) again(key string, at, now time.Time) {
	one := w.at(key, now)
	one.at, one.slow = at, true
}

func (w *windows) at(key string, now time.Time) *window {
	one := w.open[key]
	if one == nil {
		one = &window{first: now, last: now, paths: map[string]bool{}, born: map[string]bool{}}
		w.open[key] = one
	}
	return one
}

// isOpen says that a pack has changes that are not quiet yet.
func (w *windows) isOpen(key string) bool { return w.open[key] != nil }

// due closes the windows that are quiet and gives their first changes, by key, and when to ask again
// (zero: after the next change). whole says of a path that appeared whether its content is there.
func (w *windows) due(now time.Time, whole func(path string) bool) (since map[string]time.Time, next time.Time) {
	since = map[string]time.Time{}
	for key, one := range w.open {
		at := one.due(now, w.quiet, w.max, whole)
		if !at.After(now) {
			since[key] = one.first
			delete(w.open, key)
			continue
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return since, next
}

// take closes every window, for a scan of all.
func (w *windows) take() map[string]time.Time {
	since := map[string]time.Time{}
	for key, one := range w.open {
		since[key] = one.first
	}
	clear(w.open)
	return since
}

func (o *window) due(now time.Time, quiet, longest time.Duration, whole func(path string) bool) time.Time {
	if !o.at.IsZero() {
		return o.at
	}
	at := o.last.Add(quiet)
	if path, ok := o.renamed(); ok && renameQuiet < quiet {
		switch brief := o.last.Add(renameQuiet); {
		case brief.After(now):
			at = brief
		case whole(path):
			at = now
		default:
			o.slow = true
		}
	}
	if latest := o.first.Add(longest); latest.Before(at) {
		return latest
	}
	return at
}

// renamed gives the one path that changed, where all that happened to it is that it appeared. A file
// that is written after open(O_CREAT) is told as written too, so what appeared and was never written
// came by a rename or a link, with all its content; whether it has any is looked at before that counts.
func (o *window) renamed() (path string, ok bool) {
	if o.slow || len(o.paths) != 1 {
		return "", false
	}
	for path, only := range o.paths {
		return path, only
	}
	return "", false
}
