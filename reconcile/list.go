package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/attune-io/attune/reconcile/manifest"
)

// listing is what the packs folders hold, before any pack is looked into.
type listing struct {
	places map[string]place // by ref
	// twice are the packs that an earlier packs folder has too, and which.
	twice map[string]string
	// sources are the packs folders, in their order.
	sources []source
}

// source is one packs folder.
type source struct {
	directory string
	real      string // without links
	id        identity
	// problem says why nothing can be said of its packs; empty: all is well.
	problem string
	// warnings are about a folder that is used nevertheless.
	warnings []string
	// remote names the file system where changes made elsewhere are not told to this machine.
	remote string
	// ctime is when an entry last came or went, as nanoseconds since 1970.
	ctime int64
}

// unavailable says whether the packs of a folder cannot be judged now.
func (l *listing) unavailable(directory string) bool {
	return slices.ContainsFunc(l.sources, func(s source) bool { return s.directory == directory && s.problem != "" })
}

// problem tells what is wrong with the packs folders; empty: nothing.
func (l *listing) problem() string {
	for _, s := range l.sources {
		if s.problem != "" {
			return s.problem
		}
	}
	return ""
}

// list reads the packs folders. known are the identities that they had before: an empty folder that
// is mounted over another holds no news of the packs.
// lenient has a folder used that everybody may write.
func list(directories, patterns []string, cover coverage, known map[string]identity, lenient bool) *listing {
	l := &listing{places: map[string]place{}, twice: map[string]string{}}
	cover.begin(everything)
	defer cover.end(everything)
	for _, directory := range directories {
		s, refs := listSource(directory, patterns, cover, lenient)
		if before, ok := known[directory]; ok && s.problem == "" && len(refs) == 0 && s.id.dev != before.dev {
			s.problem = fmt.Sprintf("cannot use packs folder %s: an empty file system is mounted there", directory)
		}
		l.sources = append(l.sources, s)
		if s.problem != "" {
			continue
		}
		for _, ref := range refs {
			next := placeOf(directory, s.real, ref)
			if before, ok := l.places[ref]; ok {
				if !hasPackFile(next) {
					continue
				}
				if hasPackFile(before) {
					l.twice[ref] = before.directory
				}
			}
			l.places[ref] = next
		}
	}
	return l
}

func hasPackFile(p place) bool {
	_, err := os.Lstat(filepath.Join(p.key, "pack.yaml"))
	return err == nil
}

func listSource(directory string, patterns []string, cover coverage, lenient bool) (s source, refs []string) {
	s.directory = directory
	fail := func(format string, args ...any) (source, []string) {
		s.problem = fmt.Sprintf("cannot use packs folder %s: ", directory) + fmt.Sprintf(format, args...)
		return s, nil
	}
	real, links, err := follow("/", directory)
	for _, link := range links {
		cover.name(everything, link)
	}
	if err != nil {
		return fail("%s", plain(err))
	}
	s.real = real
	cover.name(everything, real)
	f, err := os.Open(real)
	if err != nil {
		return fail("%s", plain(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail("%s", plain(err))
	}
	if !info.IsDir() {
		return fail("it is not a folder")
	}
	m := markOf(info)
	s.id, s.ctime, s.remote = m.identity(), m.ctime, unwatchableKind(real)
	warn := func(format string, args ...any) { s.warnings = append(s.warnings, fmt.Sprintf(format, args...)) }
	if m.worldWritable() && !readOnly(real) {
		const text = "everybody may write it (mode %04o, expected %04o), and so choose what runs here; chmod o-w %s"
		args := []any{m.mode & 0o7777, m.mode & 0o7775, quoted(directory)}
		if !lenient {
			return fail(text, args...)
		}
		warn("packs folder %s: "+text, append([]any{directory}, args...)...)
	}
	if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() {
		warn("packs folder %s belongs to uid %d, who can change what runs as uid %d", directory, owner, os.Geteuid())
	}
	if message, hint := openAbove(append(links, real)); message != "" {
		warn("packs folder %s: %s; %s", directory, message, hint)
	}
	cover.packs(directory, real, s.id)
	entries, err := f.ReadDir(-1)
	if err != nil {
		return fail("%s", plain(err))
	}
	for _, entry := range entries {
		if isPackFolder(real, entry) && wantedPack(entry.Name(), patterns) {
			refs = append(refs, entry.Name())
		}
	}
	slices.Sort(refs)
	return s, refs
}

// plain is an error without the path, which the message has already.
func plain(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "it is not there"
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

func isPackFolder(directory string, entry fs.DirEntry) bool {
	if ignored(entry.Name()) {
		return false
	}
	if entry.Type()&fs.ModeSymlink == 0 {
		return entry.IsDir()
	}
	info, err := os.Stat(filepath.Join(directory, entry.Name()))
	// A link to nothing may get its folder back: it is looked into, and found gone until then.
	return err != nil || info.IsDir()
}

// wantedPack says whether auto_load names a pack. A pattern that is none was refused by New.
func wantedPack(ref string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, ref)
		return ok && err == nil
	})
}

// twiceWarning tells a pack that two packs folders have.
func twiceWarning(p place, other string) *manifest.Error {
	return &manifest.Error{
		Place: manifest.Place{File: p.ref}, Severity: manifest.SeverityWarning, Kind: manifest.KindPack, Ref: p.ref,
		Message: fmt.Sprintf("cannot load the pack of this name in %s too: the one in %s is used", other, p.directory),
		Hint:    "remove one of them",
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
