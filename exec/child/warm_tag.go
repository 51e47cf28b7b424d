package child

import (
	"hash/fnv"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process that was forked from a warm parent shows the parent's environment in /proc until it executes
// a program, so there its marks name the parent. A tag names the child itself: a soft limit on the time
// that a real-time process may compute, so large that it limits nothing. It is inherited by all that the
// child forks, through every exec, and a process of the same user can read it.
const (
	tagBit    = 1 << 62
	tagIDBits = 40
)

// tagOf is the tag of a child; 0: its id cannot be one.
func (r *Runner) tagOf(id string) uint64 {
	n, err := strconv.ParseUint(id, 10, tagIDBits)
	if err != nil {
		return 0
	}
	return tagBit | r.tagRun() | n
}

// tagRun tells the runs of one process apart.
func (r *Runner) tagRun() uint64 {
	h := fnv.New32a()
	h.Write([]byte(r.id))
	return uint64(h.Sum32()>>11) << tagIDBits
}

// setTag marks a child of ours that runs nothing yet.
func (r *Runner) setTag(pid int, id string) error {
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_RTTIME, nil, &lim); err != nil {
		return err
	}
	lim.Cur = r.tagOf(id)
	return unix.Prlimit(pid, unix.RLIMIT_RTTIME, &lim, nil)
}

// readMarks is what a process says of itself; the tag says more than the environment.
func (r *Runner) readMarks(pid int) (marks, sight) {
	if child, ok := r.readTag(pid); ok {
		return marks{run: r.id, child: child}, seen
	}
	return readMarks(pid)
}

// readTag gives the child whose tag of this run a process carries.
func (r *Runner) readTag(pid int) (child string, ok bool) {
	var lim unix.Rlimit
	if !r.warmed.Load() || unix.Prlimit(pid, unix.RLIMIT_RTTIME, nil, &lim) != nil {
		return "", false
	}
	const mask = uint64(1)<<tagIDBits - 1
	if lim.Cur&^mask != tagBit|r.tagRun() {
		return "", false
	}
	return strconv.FormatUint(lim.Cur&mask, 10), true
}

// isWarmVariable tells whether a variable is an attempt's own; all others are the interpreter's, which
// may read them when it starts. Some of Attune's are the same for all attempts from one revision of a pack.
func isWarmVariable(item string) bool {
	name, _, _ := strings.Cut(item, "=")
	switch name {
	case "TMPDIR", "ATTUNE_PACK_CONFIG_FILE":
		return true
	case "ATTUNE_PACK_REF", "ATTUNE_PACK_DIR", "ATTUNE_DATA_DIR", "ATTUNE_LOG_LEVEL", "ATTUNE_BINARY":
		return false
	}
	return strings.HasPrefix(name, "ATTUNE_") && !strings.HasPrefix(name, "ATTUNE_PACK_CONFIG_")
}
