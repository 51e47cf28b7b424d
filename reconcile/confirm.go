package reconcile

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dir is one folder of a pack as the last scan found it.
type dir struct {
	path string // absolute, without links
	mark mark
}

// confirmed says that a pack's folder is exactly what the last scan found, by one look at each folder and
// file that it had. Nothing is listed: where a folder's own times stand, no name has come or gone in it. Each
// regular scan asks it of every pack, so what is asked costs a third of a walk.
//
// It only ever answers no where a walk is to find out. What it looks at by a path that has meanwhile become
// another is not taken for what was there, because that has another inode.
func (s *scanner) confirmed(p place, old *folder) bool {
	if old == nil || len(old.dirs) == 0 || old.place != p || p.at != "" || old.real != filepath.Join(p.root, p.ref) {
		return false
	}
	if !s.cover.holds(p.key, old.dirs) {
		// Watched first, then looked at: no change falls between.
		s.cover.begin(p.key)
		for i := range old.dirs {
			s.cover.folder(p.key, old.dirs[i].path, old.dirs[i].mark.identity())
		}
		s.cover.end(p.key)
		if !s.cover.holds(p.key, old.dirs) {
			return false
		}
	}
	return old.stands()
}

// lookAhead asks of many packs whether they are what the last scan found, for the scan of all that comes next.
// All that changes later is heard of, as they are watched.
func (s *scanner) lookAhead(places map[string]place) {
	s.stood = make(map[string]bool, len(places))
	for _, p := range places {
		s.stood[p.key] = s.confirmed(p, s.folders[p.key])
	}
}

// ahead says that packs were looked at for a scan of all, which has not come.
func (s *scanner) ahead() bool { return len(s.stood) > 0 }

// lookedAhead ends that scan.
func (s *scanner) lookedAhead() { s.stood = nil }

// stands looks at each folder and file, and opens none of them.
func (f *folder) stands() bool {
	// A link that took the folder's place is not followed.
	fd, err := unix.Open(f.real, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for i := range f.dirs {
		name := "."
		if i > 0 {
			name = f.dirs[i].path[len(f.real)+1:]
		}
		if !isMarked(fd, name, &f.dirs[i].mark) {
			return false
		}
	}
	for i := range f.files {
		if !isMarked(fd, f.files[i].path, &f.files[i].mark) {
			return false
		}
	}
	return true
}

func isMarked(fd int, name string, want *mark) bool {
	var stat unix.Stat_t
	for {
		err := unix.Fstatat(fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return err == nil && markOfStat(&stat) == *want
		}
	}
}

// steady gives the folders that were walked, the pack's own first, where looking at them and at the files
// can tell whether anything is new; else nil. It cannot where a link's meaning depends on more than that, nor
// where there is something to say about what is no part of the tree, nor while a time is too young to tell of
// the next change, nor on file systems whose folders' times another machine may leave as they are.
func (w *walk) steady(f *folder) []dir {
	if w.unstable || w.linked || w.kind != "" || f.noPack || f.held || len(f.problems) > 0 || len(f.findings) > 0 || len(w.dirs) == 0 {
		return nil
	}
	dev := w.dirs[0].mark.dev
	for i := range w.dirs {
		if m := &w.dirs[i].mark; m.dev != dev || m.racy(w.now) {
			return nil
		}
	}
	for i := range f.files {
		if one := &f.files[i]; one.mark.dev != dev || one.racy {
			return nil
		}
	}
	return w.dirs
}
