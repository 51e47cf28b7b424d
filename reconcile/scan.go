package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// maxPackBytes is the most that one revision holds.
	maxPackBytes = 64 << 20
	// maxPackFiles keeps a pack that somebody unpacked a whole system into from becoming a row.
	maxPackFiles = 20_000
	// maxPackDepth ends a walk through folders that were made to have no end.
	maxPackDepth = 64
	// readTries is how often a file that changes while it is read is read at once again.
	readTries = 3
	// emptyPatience is how long a manifest of no bytes is taken for one that is being written.
	emptyPatience = 2 * time.Second
	// lockPatience is how long git's index.lock is waited for; one that is older was left behind.
	lockPatience = 10 * time.Second
	lockRetry    = 100 * time.Millisecond
)

var errUnstable = errors.New("it changes while it is read")

// outcome is what one scan of one pack came to.
type outcome int

const (
	same   outcome = iota // as the last scan found it
	fresh                 // to be parsed and compared
	gone                  // no such folder, or no pack
	unsure                // being written: to be scanned again
)

// folder is a pack's folder as the last scan found it, without the content of its files.
type folder struct {
	place
	real string // without links
	// files is sorted by path.
	files []file
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
}

func placeOf(directory, root, ref string) place {
	return place{key: filepath.Join(directory, ref), ref: ref, directory: directory, root: root}
}

// resolve gives the pack's folder without links, and the links that lead from the packs folder to it.
func (p place) resolve() (real string, links []string, err error) { return follow(p.root, p.ref) }

// scanner reads packs folders, and remembers of each file enough to read it again only when it
// changed. It belongs to one goroutine.
type scanner struct {
	cover   coverage
	quiet   time.Duration
	folders map[string]*folder // by key
	// waits is since when a pack is being written, or git is at work in it.
	waits map[string]time.Time
}

func newScanner(cover coverage, quiet time.Duration) *scanner {
	return &scanner{cover: cover, quiet: quiet, folders: map[string]*folder{}, waits: map[string]time.Time{}}
}

// visit is one scan of one pack.
type visit struct {
	outcome outcome
	folder  *folder
	// content are the manifests that were read, by path.
	content map[string][]byte
	// retry is when to scan again, if unsure.
	retry time.Duration
}

// scan looks at one pack. With settle, changes that are younger than the quiet time are waited for:
// so nobody who polls takes what is being written for what is meant.
func (s *scanner) scan(p place, now time.Time, settle bool) visit {
	s.cover.begin(p.key)
	defer s.cover.end(p.key)
	old := s.folders[p.key]
	w, err := s.walk(p, old, now)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		s.forget(p.key)
		return visit{outcome: gone}
	}
	if err != nil {
		w.refuse("", "cannot read it: "+unreadable(err, nil))
	}
	next := w.finish(p)
	if retry := s.wait(p, w, old, next, now, settle); retry > 0 {
		return visit{outcome: unsure, retry: retry}
	}
	delete(s.waits, p.key)
	s.folders[p.key] = next
	v := visit{outcome: fresh, folder: next, content: w.content}
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
	if !w.unstable && !w.empty && !young && !locked {
		return 0
	}
	since, ok := s.waits[p.key]
	if !ok {
		since = now
		s.waits[p.key] = now
	}
	waited := now.Sub(since)
	switch {
	case locked && waited < lockPatience:
		return lockRetry
	case w.unstable:
		return s.quiet
	case w.empty && waited < emptyPatience, young && waited < emptyPatience:
		return min(s.quiet, emptyPatience-waited)
	}
	return 0
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

// walk is one pass over a pack's folder.
type walk struct {
	cover coverage
	place place
	base  string // the real path
	root  *os.Root
	old   []file
	now   time.Time

	files    []file
	content  map[string][]byte
	problems map[string]string
	findings manifest.Errors
	held     bool
	noPack   bool
	unstable bool // something changed while it was looked at
	empty    bool // a manifest has no bytes
	newest   int64
	bytes    int64
	full     bool // over a limit
}

// walk reads the folder. The error is of the folder itself; everything else is in the findings.
func (s *scanner) walk(p place, old *folder, now time.Time) (*walk, error) {
	w := &walk{cover: s.cover, place: p, now: now, content: map[string][]byte{}, problems: map[string]string{}}
	if old != nil {
		w.old = old.files
	}
	real, links, err := p.resolve()
	for _, link := range links {
		s.cover.name(p.key, link)
	}
	if err != nil {
		return w, err
	}
	w.base = real
	root, err := os.OpenRoot(real)
	if err != nil {
		return w, err
	}
	defer root.Close()
	w.root = root
	if _, err := root.Lstat("pack.yaml"); errors.Is(err, fs.ErrNotExist) {
		w.noPack = true
		if info, err := root.Stat("."); err == nil {
			s.cover.folder(p.key, real, markOf(info).identity())
		}
		// It may have come before the watch was there.
		if _, err := root.Lstat("pack.yaml"); errors.Is(err, fs.ErrNotExist) {
			return w, nil
		}
		w.noPack = false
	}
	w.dir(root, "", "", 0)
	return w, nil
}

// dir walks one folder. at is its path in the tree, real the path in the pack that it was reached by.
func (w *walk) dir(d *os.Root, at, real string, depth int) {
	f, err := d.Open(".")
	if err != nil {
		w.lost(at, err, nil)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		w.lost(at, err, nil)
		return
	}
	m := markOf(info)
	w.cover.folder(w.place.key, filepath.Join(w.base, real), m.identity())
	w.newest = max(w.newest, m.ctime)
	if m.worldWritable() {
		w.refuse(at, fmt.Sprintf("cannot load the pack: everybody may write this folder (mode %04o)", m.mode&0o7777))
	}
	if depth > maxPackDepth {
		w.limit(fmt.Sprintf("cannot load the pack: its folders are nested deeper than %d", maxPackDepth))
		return
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		w.lost(at, err, info)
		return
	}
	slices.Sort(names)
	for _, name := range names {
		if w.full {
			return
		}
		if !ignored(name) {
			w.entry(d, name, at, real, depth)
		}
	}
}

// entry looks at one name of a folder.
func (w *walk) entry(d *os.Root, name, at, real string, depth int) {
	here, there := path.Join(at, name), path.Join(real, name)
	if !utf8.ValidString(name) {
		w.warn(at, fmt.Sprintf("cannot keep %q: its name is not UTF-8", name), "rename it")
		return
	}
	info, err := d.Lstat(name)
	if err != nil {
		w.lost(here, err, nil)
		return
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		w.regular(d, name, here, there, info)
	case mode.IsDir():
		sub, err := d.OpenRoot(name)
		if err != nil {
			w.lost(here, err, info)
			return
		}
		w.dir(sub, here, there, depth+1)
		sub.Close()
	case mode&fs.ModeSymlink != 0:
		w.symlink(d, name, here, there, markOf(info), depth)
	default:
		what := special(mode)
		if manifest.IsManifest(here) {
			w.problems[here] = "it is " + what + ", not a file"
			return
		}
		w.warn(here, "cannot keep "+what, "a revision holds files and links only")
	}
}

func special(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

// regular takes a file into the tree, reading it where its mark is not the one that it had.
func (w *walk) regular(d *os.Root, name, here, there string, info fs.FileInfo) {
	m := markOf(info)
	isManifest := manifest.IsManifest(here)
	w.newest = max(w.newest, m.ctime)
	w.empty = w.empty || isManifest && m.size == 0
	if isManifest && m.size > manifest.MaxFileSize {
		w.problems[here] = fmt.Sprintf("it has %d bytes, at most %d are read", m.size, manifest.MaxFileSize)
		return
	}
	if w.bytes += m.size; w.bytes > maxPackBytes {
		w.limit(fmt.Sprintf("cannot load the pack: its files have more than %d MiB in all", maxPackBytes>>20))
		return
	}
	next := file{path: here, mark: m, racy: m.racy(w.now)}
	if here != there {
		next.from = there
	}
	if old := find(w.old, here); old != nil && old.mark == m && !old.racy && old.link == "" && old.from == next.from {
		next.digest = old.digest
		w.add(next)
		return
	}
	read, err := readFile(d, name, isManifest, maxPackBytes)
	switch {
	case errors.Is(err, errUnstable), errors.Is(err, fs.ErrNotExist):
		w.unstable = true
		return
	case err != nil && isManifest:
		w.problems[here] = unreadable(err, info)
		return
	case err != nil:
		w.refuse(here, "cannot read it: "+unreadable(err, info))
		return
	}
	next.mark, next.racy, next.digest = read.mark, read.mark.racy(w.now), read.digest
	if isManifest {
		w.content[here] = read.content
	}
	w.add(next)
}

// symlink keeps a link that leads to a part of the tree. One that leads through an ignored name is
// followed, and what it leads to is kept in its place: ConfigMaps are made of such.
func (w *walk) symlink(d *os.Root, name, here, there string, m mark, depth int) {
	target, err := d.Readlink(name)
	if err != nil {
		w.lost(here, err, nil)
		return
	}
	to, err := resolveInside(w.root, there)
	if to != nil {
		for _, link := range to.links {
			w.cover.name(w.place.key, filepath.Join(w.base, link))
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		w.dangling(here, target)
	case err != nil:
		w.outside(here, target, err)
	case to.hidden && to.info.Mode().IsRegular():
		w.regular(w.root, to.path, here, to.path, to.info)
	case to.hidden && to.info.IsDir():
		sub, err := w.root.OpenRoot(to.path)
		if err != nil {
			w.lost(here, err, to.info)
			return
		}
		w.dir(sub, here, to.path, depth+1)
		sub.Close()
	case here != there:
		// A link inside what was reached through an ignored name would lead elsewhere from its new place.
		w.warn(here, fmt.Sprintf("cannot keep the link to %q: it lies behind another link", target), "put the file itself here")
	case !staysInside(here, target):
		w.outside(here, target, errEscapes)
	default:
		w.newest = max(w.newest, m.ctime)
		w.add(file{path: here, mark: m, link: target, to: to.path})
	}
}

func (w *walk) dangling(here, target string) {
	why := fmt.Sprintf("it is a link to %q, which is not there", target)
	if manifest.IsManifest(here) {
		w.problems[here] = why
		return
	}
	w.warn(here, "cannot keep this file: "+why, "")
}

func (w *walk) outside(here, target string, err error) {
	why := fmt.Sprintf("it is a link to %q: %v", target, err)
	if manifest.IsManifest(here) {
		w.problems[here] = why
		return
	}
	w.find(manifest.SeverityError, here, "cannot keep this file: "+why, "put a copy into the pack")
}

func (w *walk) add(f file) {
	if len(w.files) >= maxPackFiles {
		w.limit(fmt.Sprintf("cannot load the pack: it has more than %d files", maxPackFiles))
		return
	}
	w.files = append(w.files, f)
}

// lost is for what was listed and cannot be looked at. What is gone again will be told by an event.
func (w *walk) lost(at string, err error, info fs.FileInfo) {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		w.unstable = true
		return
	}
	w.refuse(at, "cannot read it: "+unreadable(err, info))
}

// limit ends the walk.
func (w *walk) limit(message string) {
	if !w.full {
		w.refuse("", message)
	}
	w.full = true
}

// refuse holds the whole pack: a revision without this would be of something else.
func (w *walk) refuse(at, message string) {
	w.held = true
	hint := "what is in force stays"
	w.find(manifest.SeverityError, at, message, hint)
}

func (w *walk) warn(at, message, hint string) { w.find(manifest.SeverityWarning, at, message, hint) }

func (w *walk) find(severity manifest.Severity, at, message, hint string) {
	w.findings = append(w.findings, &manifest.Error{
		Place: manifest.Place{File: path.Join(w.place.ref, at)}, Severity: severity,
		Ref: w.place.ref, Kind: manifest.KindPack, Message: message, Hint: hint,
	})
}

// finish makes the folder of what was found.
func (w *walk) finish(p place) *folder {
	slices.SortFunc(w.files, func(a, b file) int { return cmp.Compare(a.path, b.path) })
	w.findings.Sort()
	f := &folder{
		place: p, real: w.base, files: slices.Clip(w.files), problems: w.problems, findings: w.findings,
		held: w.held, noPack: w.noPack,
	}
	f.digest = treeDigest(treeOf(f.files))
	h := sha256.New()
	field(h, f.digest, f.real, fmt.Sprint(f.held, f.noPack))
	for _, at := range sortedKeys(f.problems) {
		field(h, at, f.problems[at])
	}
	for _, e := range f.findings {
		field(h, e.Error())
	}
	f.sum = hex.EncodeToString(h.Sum(nil))
	return f
}

// reading is what was read of a file.
type reading struct {
	mark    mark
	digest  string
	content []byte // where it was asked for, or is small
}

// readFile reads a file of which it is sure that it did not change meanwhile. A pipe that took the
// file's place is not waited for, and a link not followed.
func readFile(d *os.Root, name string, keep bool, limit int64) (*reading, error) {
	for range readTries {
		r, err := readOnce(d, name, keep, limit)
		if !errors.Is(err, errUnstable) {
			return r, err
		}
	}
	return nil, errUnstable
}

func readOnce(d *os.Root, name string, keep bool, limit int64) (*reading, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, errUnstable
	}
	content, digest, n, err := digestRead(f, before.Size(), keep, limit)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := markOf(after)
	if m != markOf(before) || n != m.size {
		return nil, errUnstable
	}
	return &reading{mark: m, digest: digest, content: content}, nil
}

// digestRead reads what is expected to have size bytes, and no more than limit. Scripts are read at
// once; what is larger goes through a buffer, unless its content is asked for.
func digestRead(f io.Reader, size int64, keep bool, limit int64) (content []byte, digest string, n int64, err error) {
	const buffered = 256 << 10 // bytes
	if size <= buffered || keep {
		content = make([]byte, min(size, limit)+1)
		read, err := io.ReadFull(f, content)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, "", 0, err
		}
		// One byte more than expected was asked for: where it came, the size no longer fits.
		return content[:read], digestOf(content[:read]), int64(read), nil
	}
	h := sha256.New()
	n, err = io.CopyBuffer(h, io.LimitReader(f, limit+1), make([]byte, buffered))
	return nil, hex.EncodeToString(h.Sum(nil)), n, err
}

// unreadable says why a file cannot be read, with what an operator needs to mend it. info may be nil.
func unreadable(err error, info fs.FileInfo) string {
	if errors.Is(err, fs.ErrPermission) {
		text := fmt.Sprintf("permission denied to uid %d", os.Geteuid())
		if info != nil {
			text += fmt.Sprintf(" (mode %04o, owner uid %d)", info.Mode().Perm(), ownerOf(info))
		}
		return text
	}
	return plain(err)
}

// bundle parses the pack. content has manifests that were just read; the others are read now, and
// errUnstable says that one is no longer what the scan found.
func (f *folder) bundle(content map[string][]byte) (*manifest.Bundle, error) {
	root, err := os.OpenRoot(f.real)
	if err != nil {
		return nil, errUnstable
	}
	defer root.Close()
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
