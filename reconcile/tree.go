package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// file is one file of a pack as the last scan found it: part of its tree.
type file struct {
	path string // slash path in the pack
	mark mark
	// racy files are read again at the next scan, because their marks were too young.
	racy   bool
	digest string // hex SHA-256 of the content; empty for a link
	// link is the target of a link that is kept as one, and to is what it leads to, in the pack.
	link string
	to   string
	// from is the path that the content was read from, where a link through an ignored name was
	// followed; else empty.
	from string
}

// source is the path in the pack's folder that has the content.
func (f *file) source() string { return cmp.Or(f.from, f.path) }

// digestOf is the hex SHA-256 by which contents, normal forms and trees are known.
func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// treeVersion begins what is hashed, so that another form of it can never give an equal digest.
const treeVersion = "attune tree 1"

// treeDigest is the digest of a whole pack: of the paths, the x bits, and the digests or targets. It
// depends on nothing else, so it is the same on every machine. The tree must be sorted by path.
func treeDigest(tree []store.TreeEntry) string {
	h := sha256.New()
	field(h, treeVersion)
	for _, entry := range tree {
		hashEntry(h, entry)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func hashEntry(h hash.Hash, entry store.TreeEntry) {
	field(h, entry.Path)
	switch {
	case entry.Link != "":
		field(h, "link", entry.Link)
	case entry.Executable:
		field(h, "executable", entry.Digest)
	default:
		field(h, "file", entry.Digest)
	}
}

// field writes texts so that no two lists of texts give the same bytes: none of them holds a NUL.
func field(w io.Writer, texts ...string) {
	for _, text := range texts {
		// A hash never fails to take what it is given.
		_, _ = io.WriteString(w, text)
		_, _ = w.Write([]byte{0})
	}
}

// treeOf gives the tree that a revision records. files must be sorted by path.
func treeOf(files []file) []store.TreeEntry {
	tree := make([]store.TreeEntry, len(files))
	for i, f := range files {
		if f.link != "" {
			tree[i] = store.TreeEntry{Path: f.path, Link: f.link}
			continue
		}
		tree[i] = store.TreeEntry{Path: f.path, Executable: f.mark.executable(), Digest: f.digest, Size: f.mark.size}
	}
	return tree
}

// find gives the file at a path; nil: there is none. files must be sorted by path.
func find(files []file, p string) *file {
	at, ok := slices.BinarySearchFunc(files, p, func(f file, p string) int { return cmp.Compare(f.path, p) })
	if !ok {
		return nil
	}
	return &files[at]
}

// reachable maps every path under which a regular file of the pack can be opened to that file: links
// lead to files, and links to folders give what is in them further paths. Of a pack that has too many of
// those, which is refused, it gives some.
func reachable(files []file) map[string]*file {
	all := make(map[string]*file, len(files))
	for i := range files {
		f := &files[i]
		if f.link == "" {
			all[f.path] = f
			continue
		}
		if target := find(files, f.to); target != nil && target.link == "" {
			all[f.path] = target
			continue
		}
		from, end := below(files, f.to)
		for j := from; j < end && len(all) < maxPackPaths; j++ {
			if files[j].link == "" {
				all[f.path+files[j].path[len(f.to):]] = &files[j]
			}
		}
	}
	return all
}

// below gives the range of the files in a folder.
func below(files []file, folder string) (from, end int) {
	compare := func(f file, p string) int { return cmp.Compare(f.path, p) }
	from, _ = slices.BinarySearchFunc(files, folder+"/", compare)
	end, _ = slices.BinarySearchFunc(files, folder+string('/'+1), compare)
	return from, end
}

// countPaths is at least how many paths reachable would give, were it not for its bound. files must be
// sorted by path.
func countPaths(files []file) int {
	n := len(files)
	for i := range files {
		if files[i].link != "" {
			from, end := below(files, files[i].to)
			n += end - from
		}
	}
	return n
}

// filesDigests gives, for each action and sensor, the digest of the files whose change concerns it.
//
// A sensor is restarted when it changes, so it has its entry point, what lies beside it and may be
// read by it, lib/ and sensors/lib/, and what its environment is made from. The scripts of other
// sensors are not among them: of two scripts side by side only the edited one is restarted; and
// README files never restart anything. A script is another sensor's if it is its entry point or named
// like its manifest, accepted or not, or was when the sensor was last in force: else a mistake in one
// manifest, or its removal, would restart its neighbours.
//
// An action is started anew each time, from the revision's whole tree, so its digest only tells
// people whether an edit concerned it: entry point, lib/ and actions/lib/.
//
// known are the pack's components as the database has them, in force or not.
func filesDigests(files map[string]*file, components, known []manifest.Component) map[string]string {
	paths := sortedKeys(files)
	scripts := scriptsOf(paths, slices.Concat(components, known))
	digests := map[string]string{}
	for _, c := range components {
		runner, ok := runnerOf(c)
		if !ok {
			continue
		}
		script := entryPath(c.Kind(), runner)
		h := sha256.New()
		for _, p := range paths {
			if p == script || !scripts(p) && concerns(c.Kind(), runner, p) {
				f := files[p]
				hashEntry(h, store.TreeEntry{Path: p, Executable: f.mark.executable(), Digest: f.digest})
			}
		}
		digests[c.Head().Ref] = hex.EncodeToString(h.Sum(nil))
	}
	return digests
}

// scriptsOf says of a path whether some sensor's script is there.
func scriptsOf(paths []string, components []manifest.Component) func(p string) bool {
	entries := map[string]bool{}
	for _, c := range components {
		if s, ok := c.(*manifest.Sensor); ok {
			entries[entryPath(c.Kind(), s.Runner)] = true
		}
	}
	stems := map[string]bool{}
	for _, p := range paths {
		if manifest.IsManifest(p) && path.Dir(p) == manifest.KindSensor.Folder() {
			stems[stem(p)] = true
		}
	}
	return func(p string) bool {
		return entries[p] || path.Dir(p) == manifest.KindSensor.Folder() && stems[stem(p)]
	}
}

func stem(p string) string { return strings.TrimSuffix(path.Base(p), path.Ext(p)) }

func runnerOf(c manifest.Component) (manifest.Runner, bool) {
	switch c := c.(type) {
	case *manifest.Action:
		return c.Runner, true
	case *manifest.Sensor:
		return c.Runner, true
	default:
		return manifest.Runner{}, false
	}
}

// entryPath is the path in the pack of what a component starts.
func entryPath(kind manifest.Kind, r manifest.Runner) string {
	return path.Join(kind.Folder(), r.EntryPoint)
}

// concerns says whether a file that is nobody's entry point may be used by a component.
func concerns(kind manifest.Kind, r manifest.Runner, p string) bool {
	if strings.HasPrefix(strings.ToUpper(path.Base(p)), "README") {
		return false
	}
	if strings.HasPrefix(p, "lib/") || strings.HasPrefix(p, kind.Folder()+"/lib/") {
		return true
	}
	switch r.RunnerType {
	case manifest.RuntimePython:
		if p == "requirements.txt" {
			return true
		}
	case manifest.RuntimeNode:
		if p == "package.json" || p == "package-lock.json" {
			return true
		}
	}
	if kind != manifest.KindSensor || manifest.IsManifest(p) {
		return false
	}
	dir := path.Dir(p)
	return dir == kind.Folder() || dir == path.Dir(entryPath(kind, r))
}
