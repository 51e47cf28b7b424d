package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	// maxPackPaths bounds the ways to the files of a pack: each link to a folder makes one more to all that
	// is in it, and whoever looks for a path keeps them all.
	maxPackPaths = 50_000
	// maxPackDepth ends a walk through folders that were made to have no end.
	maxPackDepth = 64
	// maxKept bounds what is kept in memory of an edited pack's scripts, in bytes; the rest is read twice.
	maxKept = 4 << 20
)

// walk is one pass over a pack's folder.
type walk struct {
	cover coverage
	place place
	base  string // the real path
	root  *os.Root
	old   []file
	now   time.Time

	dirs     []dir
	files    []file
	content  map[string][]byte
	problems map[string]string
	findings manifest.Errors
	held     bool
	noPack   bool
	unstable bool   // something changed while it was looked at
	empty    string // a manifest that has no bytes, or a script that has none any more; "": there is none
	kept     int    // bytes of content that are no manifests'
	read     bool   // a file had to be read
	linked   bool   // there are links, in the pack or on the way to it
	kind     string // of the file system, where it does not tell of all changes
	remote   string // the same, where the packs folder's is another
	newest   int64
	bytes    int64
	full     bool // over a limit
	// lenient has what everybody may write loaded, with a warning.
	lenient bool
	open    []openPath    // what everybody may write
	foreign []foreignPath // what belongs to neither root, nor this process's user, nor the packs folder's owner
	owner   int           // of the packs folder
}

// walk reads the folder. The error is of the folder itself; everything else is in the findings.
func (s *scanner) walk(p place, old *folder, now time.Time) (*walk, error) {
	w := &walk{cover: s.cover, place: p, now: now, content: map[string][]byte{}, problems: map[string]string{}, lenient: s.lenient}
	if old != nil {
		w.old = old.files
		w.files = make([]file, 0, len(old.files))
	}
	real, links, err := p.resolve()
	for _, link := range links {
		s.cover.name(p.key, link)
	}
	w.linked = len(links) > 0
	if err != nil {
		return w, err
	}
	if w.linked {
		w.tellOpenAbove(append(links, real))
	}
	w.base = real
	root, err := os.OpenRoot(real)
	if err != nil {
		return w, err
	}
	defer root.Close()
	w.root = root
	w.kind = unwatchableKind(real)
	w.remote = w.elsewhere()
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
	w.tellWriters()
	return w, nil
}

// elsewhere names the pack's file system where it is another than that of the packs folder, and does not
// tell of all changes.
func (w *walk) elsewhere() string {
	packs, err := os.Stat(w.place.root)
	if err != nil {
		return ""
	}
	w.owner = ownerOf(packs)
	pack, err := w.root.Stat(".")
	if err != nil || markOf(pack).dev == markOf(packs).dev {
		return ""
	}
	return w.kind
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
	where := filepath.Join(w.base, real)
	w.cover.folder(w.place.key, where, m.identity())
	w.dirs = append(w.dirs, dir{where, m})
	w.newest = max(w.newest, m.ctime)
	w.writers(at, info, m)
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
	w.writers(here, info, m)
	isManifest := manifest.IsManifest(here)
	w.newest = max(w.newest, m.ctime)
	old := find(w.old, here)
	if w.empty == "" && m.size == 0 && (isManifest || old != nil && old.mark.size > 0) {
		w.empty = here
	}
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
	if old != nil && old.mark == m && !old.racy && old.link == "" && old.from == next.from {
		next.digest = old.digest
		w.add(next)
		return
	}
	w.read = true
	limit := int64(maxPackBytes)
	if isManifest {
		limit = manifest.MaxFileSize // it may have grown since it was looked at
	}
	read, err := readFile(d, name, isManifest, limit)
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
	// Of an edited pack, scripts are kept too until they are applied: one that is written without an end
	// would never again be what was read here.
	if isManifest {
		w.content[here] = read.content
	} else if size := len(read.content); w.old != nil && size > 0 && w.kept+size <= maxKept {
		w.content[here] = read.content
		w.kept += size
	}
	w.add(next)
}

// symlink keeps a link that leads to a part of the tree. One that leads through an ignored name is
// followed, and what it leads to is kept in its place: ConfigMaps are made of such.
func (w *walk) symlink(d *os.Root, name, here, there string, m mark, depth int) {
	w.linked = true
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
		w.hiddenWriters(to.path)
		w.regular(w.root, to.path, here, to.path, to.info)
	case to.hidden && to.info.IsDir():
		w.hiddenWriters(to.path)
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

// confirms says that the folder is exactly what it was: the same files under the same marks, and nothing
// to say about any of them. Nearly all folders of a regular scan are, and need no digest of their own.
func (w *walk) confirms(p place, old *folder) bool {
	if old == nil || w.read || w.unstable || w.held || len(w.problems) > 0 || len(w.findings) > 0 {
		return false
	}
	if old.held || old.place != p || old.real != w.base || old.noPack != w.noPack || len(old.problems) > 0 ||
		len(old.findings) > 0 || len(old.files) != len(w.files) {
		return false
	}
	for i := range w.files {
		one := &w.files[i]
		if before := find(old.files, one.path); before == nil || *before != *one {
			return false
		}
	}
	return true
}

// finish makes the folder of what was found.
func (w *walk) finish(p place) *folder {
	slices.SortFunc(w.files, func(a, b file) int { return cmp.Compare(a.path, b.path) })
	if n := countPaths(w.files); n > maxPackPaths {
		w.limit(fmt.Sprintf("cannot load the pack: its links to folders make %d paths of %d files and links, at most %d are followed", n, len(w.files), maxPackPaths))
	}
	w.findings.Sort()
	// A copy, because it is kept: what was appended to holds up to twice the memory.
	f := &folder{
		place: p, real: w.base, files: slices.Clone(w.files), problems: w.problems, findings: w.findings,
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
