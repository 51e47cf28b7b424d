package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// emptyPatience is how long a manifest of no bytes, or a script that has lost all of its, is taken for one
	// that is being written.
	emptyPatience = 2 * time.Second
	// lockPatience is how long git's index.lock is waited for; one that is older was left behind.
	lockPatience = 10 * time.Second
	lockRetry    = 100 * time.Millisecond
)

// outcome is what one scan of one pack came to; doc.go has the table of what follows.
type outcome int

const (
	same outcome = iota
	fresh
	gone
	unsure
)

func (o outcome) String() string {
	switch o {
	case same:
		return "same"
	case fresh:
		return "fresh"
	case gone:
		return "gone"
	case unsure:
		return "unsure"
	default:
		panic("reconcile: unknown outcome " + strconv.Itoa(int(o)))
	}
}

// folder is a pack's folder as the last scan found it, without the content of its files.
type folder struct {
	place
	real string // without links
	// remote is as source has it, of a pack on another file system than its packs folder.
	remote string
	// files is sorted by path.
	files []file
	// dirs are its folders, where they and the files are enough to look at; see steady.
	dirs []dir
	// problems are the manifests that cannot be read, and why. They are no part of the tree.
	problems map[string]string
	// findings are about files, not about what manifests say.
	findings manifest.Errors
	// held says that the tree is not whole, so that no revision can be made of it.
	held   bool
	digest string // of the tree
	// sum is of all of the above: what decides whether anything is new.
	sum string
	// noPack says that there is no pack.yaml.
	noPack bool
}

// place is where a pack is.
type place struct {
	key       string // directory/ref
	ref       string // the folder's name
	directory string // the packs folder, as configured
	root      string // the packs folder, without links
	at        string // the folder's name, where that is not ref: a revision's
}

func placeOf(directory, root, ref string) place {
	return place{key: filepath.Join(directory, ref), ref: ref, directory: directory, root: root}
}

// resolve gives the pack's folder without links, and the links that lead from the packs folder to it.
func (p place) resolve() (real string, links []string, err error) {
	return follow(p.root, cmp.Or(p.at, p.ref))
}

// scanner reads packs folders, and remembers of each file enough to read it again only when it
// changed. It belongs to one goroutine.
type scanner struct {
	cover   coverage
	quiet   time.Duration
	lenient bool               // see Trust.WorldWritable
	folders map[string]*folder // by key
	// waits are the packs that are being written, or in which git is at work, by key.
	waits map[string]waiting
	// stood are the packs that lookAhead looked at; true: nothing in it changed.
	stood map[string]bool
}

func newScanner(cover coverage, quiet time.Duration) *scanner {
	return &scanner{cover: cover, quiet: quiet, folders: map[string]*folder{}, waits: map[string]waiting{}}
}

// waiting is that a pack is being written: since when, and what tells so.
type waiting struct {
	since time.Time
	why   string
}

// visit is one scan of one pack.
type visit struct {
	outcome outcome
	folder  *folder
	// content are the manifests that were read, by path.
	content map[string][]byte
	// retry is when to scan again, if unsure.
	retry time.Duration
	// read says that some file had to be read, so that more is known of the pack than before.
	read bool
}

// scan looks at one pack. With settle, changes that are younger than the quiet time are waited for:
// so nobody who polls takes what is being written for what is meant.
func (s *scanner) scan(p place, now time.Time, settle bool) visit {
	old := s.folders[p.key]
	stood, looked := s.stood[p.key]
	if !looked {
		stood = s.confirmed(p, old)
	}
	if stood {
		delete(s.waits, p.key)
		return visit{outcome: same, folder: old}
	}
	s.cover.begin(p.key)
	defer s.cover.end(p.key)
	w, err := s.walk(p, old, now)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		s.forget(p.key)
		return visit{outcome: gone}
	}
	if err != nil {
		// Told of pack.yaml, without which it would be taken for a folder that is none.
		info, _ := os.Stat(p.key)
		w.problems["pack.yaml"], w.held = "its folder cannot be opened, "+unreadable(err, info), true
	}
	next := old
	if !w.confirms(p, old) {
		next = w.finish(p)
	}
	next.remote, next.dirs = w.remote, w.steady(next)
	if retry := s.wait(p, w, old, next, now, settle); retry > 0 {
		return visit{outcome: unsure, retry: retry}
	}
	delete(s.waits, p.key)
	s.folders[p.key] = next
	v := visit{outcome: fresh, folder: next, content: w.content, read: w.read}
	switch {
	case next.noPack:
		v.outcome = gone
	case old != nil && old.sum == next.sum:
		v.outcome = same
	}
	return v
}

func (s *scanner) forget(key string) {
	delete(s.folders, key)
	delete(s.waits, key)
}

// wait says how long to wait until the pack is worth a look; zero: it is now.
func (s *scanner) wait(p place, w *walk, old, next *folder, now time.Time, settle bool) time.Duration {
	if old != nil && old.sum == next.sum && !w.unstable {
		return 0
	}
	young := settle && w.newest <= now.UnixNano() && now.UnixNano()-w.newest < s.quiet.Nanoseconds()
	locked := gitLocked(w.base)
	if !w.unstable && w.empty == "" && !young && !locked {
		return 0
	}
	of, ok := s.waits[p.key]
	if !ok {
		of.since = now
	}
	waited := now.Sub(of.since)
	var retry time.Duration
	switch {
	case locked && waited < lockPatience:
		of.why, retry = "git is at work in it", lockRetry
	case w.unstable:
		of.why, retry = "it changed while it was read", s.quiet
	case w.empty != "" && waited < emptyPatience:
		of.why = fmt.Sprintf("%s/%s has no bytes, and for %s that means that it is being written", p.ref, w.empty, emptyPatience)
		retry = min(s.quiet, emptyPatience-waited)
	case young && waited < emptyPatience:
		of.why, retry = "it changed a moment ago", min(s.quiet, emptyPatience-waited)
	}
	s.waits[p.key] = of
	return retry
}

// waitsFor tells of each pack that is being written what it waits for, by ref.
func (s *scanner) waitsFor() []PackWait {
	list := []PackWait{}
	for key, of := range s.waits {
		list = append(list, PackWait{Pack: filepath.Base(key), Why: of.why})
	}
	slices.SortFunc(list, func(a, b PackWait) int { return cmp.Or(cmp.Compare(a.Pack, b.Pack), cmp.Compare(a.Why, b.Why)) })
	return list
}

// gitLocked says that git is changing the work tree that a folder belongs to: files are absent for a
// moment, and some are of the old commit and some of the new.
func gitLocked(dir string) bool {
	for dir != "" {
		if _, err := os.Lstat(filepath.Join(dir, ".git", "index.lock")); err == nil {
			return true
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return false
}

// bundle parses the pack. content has manifests that were just read; the others are read now, and
// errUnstable says that one is no longer what the scan found.
func (f *folder) bundle(content map[string][]byte) (*manifest.Bundle, error) {
	root, err := os.OpenRoot(f.real)
	switch {
	case err == nil:
		defer root.Close()
	case len(f.files) > 0 || len(f.problems) == 0: // else it was not to be opened when it was scanned, and nothing of it is read here
		return nil, errUnstable
	}
	files := map[string]manifest.File{}
	for at, one := range reachable(f.files) {
		entry := manifest.File{Executable: one.mark.executable()}
		if manifest.IsManifest(at) {
			entry.Content, entry.Problem, err = f.manifestContent(root, one, content)
			if err != nil {
				return nil, err
			}
		}
		files[at] = entry
	}
	for at, why := range f.problems {
		files[at] = manifest.File{Problem: why}
	}
	b := manifest.Parse(f.ref, files)
	b.Errors = append(b.Errors, cloneErrors(f.findings)...)
	b.Errors.Sort()
	if f.held {
		b.Pack = nil
	}
	return b, nil
}

func (f *folder) manifestContent(root *os.Root, one *file, content map[string][]byte) (data []byte, problem string, err error) {
	if data, ok := content[one.path]; ok {
		return data, "", nil
	}
	if one.mark.size > manifest.MaxFileSize { // a link to a file that is too large for a manifest
		return nil, fmt.Sprintf("it has %d bytes, at most %d are read", one.mark.size, manifest.MaxFileSize), nil
	}
	read, err := readFile(root, one.source(), true, manifest.MaxFileSize)
	if err != nil || read.digest != one.digest {
		return nil, "", errUnstable
	}
	return read.content, "", nil
}

// cloneErrors copies findings, because checking strictly changes their severity.
func cloneErrors(errs manifest.Errors) manifest.Errors {
	copies := make(manifest.Errors, len(errs))
	for i, e := range errs {
		one := *e
		copies[i] = &one
	}
	return copies
}

// contentOf gives a file of the scanned tree by its digest: what the scan read, or else read again.
func (p *pack) contentOf(digest string) ([]byte, error) {
	for i := range p.folder.files {
		one := &p.folder.files[i]
		if content, ok := p.content[one.path]; ok && one.digest == digest {
			return content, nil
		}
	}
	return p.folder.contentOf(digest)
}

// contentOf reads a file of the scanned tree by its digest.
func (f *folder) contentOf(digest string) ([]byte, error) {
	for i := range f.files {
		one := &f.files[i]
		if one.digest != digest {
			continue
		}
		root, err := os.OpenRoot(f.real)
		if err != nil {
			return nil, errUnstable
		}
		defer root.Close()
		f, err := root.OpenFile(one.source(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", one.path, errUnstable)
		}
		defer f.Close()
		content, err := io.ReadAll(io.LimitReader(f, maxPackBytes+1))
		if err != nil || digestOf(content) != digest {
			return nil, fmt.Errorf("cannot read %s: %w", one.path, errUnstable)
		}
		return content, nil
	}
	return nil, fmt.Errorf("cannot find a file with digest %s in %s", digest, f.real)
}
