package reconcile

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

// Whoever can write a pack decides what the daemon runs. As with sshd's keys and sudo's rules, what everybody on
// the machine may write is therefore no word of its owner's. A group may write, because teams work so, and so do
// people whose umask is 002. The sticky bit changes nothing: it lets nobody replace a file of others, and everybody
// add one. A mode on a file system that is mounted read-only lets nobody do anything: Kubernetes mounts ConfigMaps
// so, with folders of mode 0777.

// openPath is a file or folder of a pack that everybody may write.
type openPath struct {
	at   string
	mode uint32
	what string
}

// foreignPath is a file or folder of a pack that belongs to a stranger.
type foreignPath struct {
	at    string
	owner int // user id
}

// writers notes who beside its owner could change a file or folder of the pack.
func (w *walk) writers(at string, info fs.FileInfo, m mark) {
	if m.worldWritable() {
		what := "file"
		if info.IsDir() {
			what = "folder"
		}
		w.open = append(w.open, openPath{at, m.mode & 0o7777, what})
	}
	if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() && owner != w.owner {
		w.foreign = append(w.foreign, foreignPath{at, owner})
	}
}

// hiddenWriters looks at the folders on the way to what stands behind a link through an ignored name: they are
// walked by nobody else.
func (w *walk) hiddenWriters(to string) {
	for at := path.Dir(to); at != "."; at = path.Dir(at) {
		if info, err := w.root.Lstat(at); err == nil && info.IsDir() {
			w.writers(at, info, markOf(info))
		}
	}
}

// tellWriters makes one finding of all that everybody may write, and one of what belongs to strangers.
func (w *walk) tellWriters() {
	if len(w.open) > 0 && !readOnly(w.base) {
		first := w.open[0]
		message := fmt.Sprintf("everybody may write this %s (mode %04o, expected %04o), and so choose what runs here",
			first.what, first.mode, first.mode&^0o002)
		hint := "chmod o-w " + quoted(filepath.Join(w.base, first.at))
		if more := len(w.open) - 1; more > 0 {
			message += fmt.Sprintf("; %d more are like it", more)
			hint = "chmod -R o-w " + quoted(w.base)
		}
		if w.lenient {
			w.warn(first.at, message, hint)
		} else {
			w.held = true
			w.find(manifest.SeverityError, first.at, "cannot load the pack: "+message, hint+"; what is in force stays")
		}
	}
	if len(w.foreign) > 0 {
		text := ""
		if more := len(w.foreign) - 1; more > 0 {
			text = fmt.Sprintf(" (and %d more)", more)
		}
		first := w.foreign[0]
		w.warn(first.at, fmt.Sprintf("this%s belongs to uid %d, who can change what runs as uid %d", text, first.owner, os.Geteuid()),
			fmt.Sprintf("chown -R %d %s", w.owner, quoted(w.base)))
	}
}

// readOnly says that a file system is mounted so that nothing on it can be written, whatever the modes say.
func readOnly(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
}

// tellOpenAbove looks at the way to a pack that is a link.
func (w *walk) tellOpenAbove(paths []string) {
	if message, hint := openAbove(paths); message != "" {
		w.warn("", message, hint)
	}
}

// openAbove says in which folder on the way to paths everybody may rename what leads there, and what to do; empty:
// in none.
func openAbove(paths []string) (message, hint string) {
	for _, at := range paths {
		for dir := filepath.Dir(at); ; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 && !readOnly(dir) {
				return fmt.Sprintf("everybody may put something else in the place of %s, because everybody may write %s (mode %04o)",
					at, dir, info.Mode().Perm()), "chmod o-w " + quoted(dir) + ", or +t"
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", ""
}

// quoted writes a path as a shell takes it.
func quoted(path string) string {
	if strings.ContainsFunc(path, func(c rune) bool {
		return !strings.ContainsRune("/._-+,:@%=", c) && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
