package reconcile

import (
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// racyWindow is how long after a change a file's times cannot tell the next change from it: clocks of
// file systems tick in milliseconds, those of FAT and of some network file systems in 2 s.
const racyWindow = 2 * time.Second

// mark is what an inode tells about a file without opening it. Two equal marks of one path are the
// same content, unless the change time is so young that another write could have left it as it is.
// Times are nanoseconds since 1970. mtime alone would not do: cp -p, rsync -t and git set it back.
type mark struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
	mode         uint32
}

// identity tells one folder from another that stands under the same path later.
type identity struct{ dev, ino uint64 }

func (m mark) identity() identity { return identity{m.dev, m.ino} }

// executable looks at the owner's bit, the one that git keeps.
func (m mark) executable() bool { return m.mode&0o100 != 0 }

// worldWritable says that anybody on the machine could change what Attune runs.
func (m mark) worldWritable() bool { return m.mode&0o002 != 0 }

// racy says that the content may change once more without changing the mark. A change time in the
// future, after a clock was set back, says nothing at all.
func (m mark) racy(now time.Time) bool { return m.ctime > now.Add(-racyWindow).UnixNano() }

func markOf(info fs.FileInfo) mark {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		panic("reconcile: files of an unknown system: no inode in " + info.Name())
	}
	return mark{
		dev: stat.Dev, ino: stat.Ino, size: stat.Size,
		mtime: stat.Mtim.Nano(), ctime: stat.Ctim.Nano(), mode: stat.Mode,
	}
}

func markOfStat(stat *unix.Stat_t) mark {
	return mark{
		dev: stat.Dev, ino: stat.Ino, size: stat.Size,
		mtime: stat.Mtim.Nano(), ctime: stat.Ctim.Nano(), mode: stat.Mode,
	}
}

// ownerOf gives the owner's user id.
func ownerOf(info fs.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(stat.Uid)
}

// ignored says whether a name is left by an editor, a tool or a version control system: it is no part
// of a revision, and a change of it changes nothing.
func ignored(name string) bool {
	switch name {
	case "__pycache__", "node_modules", "4913": // vim tries whether it can write a folder with 4913
		return true
	}
	switch {
	case strings.HasPrefix(name, "."), // .git, .venv, .x.swp, .#lock
		strings.HasSuffix(name, "~"),
		strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#"),
		strings.HasSuffix(name, ".tmp"),
		strings.HasSuffix(name, ".pyc"),
		strings.HasSuffix(name, "___jb_tmp___"), strings.HasSuffix(name, "___jb_old___"):
		return true
	}
	if ext := filepath.Ext(name); len(ext) == 4 && strings.HasPrefix(ext, ".sw") {
		return true // .swp, .swo, .swx
	}
	return isSedTemporary(name)
}

// isSedTemporary recognises the file that sed -i writes before it renames it: sed and six letters or
// digits. A word like "sedatives" is not of that kind: mkstemp's six are hardly ever all lower case.
func isSedTemporary(name string) bool {
	rest, ok := strings.CutPrefix(name, "sed")
	if !ok || len(rest) != 6 {
		return false
	}
	plain := true
	for _, c := range rest {
		switch {
		case c >= 'a' && c <= 'z':
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			plain = false
		default:
			return false
		}
	}
	return !plain
}
