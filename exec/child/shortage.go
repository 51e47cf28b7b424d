package child

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Shortage is what this machine, or this daemon, has run out of when something cannot be started. It
// says nothing against what was to be started, which can be tried again.
type Shortage string

// The shortages; their names are good for a metric's label.
const (
	NoShortage        Shortage = ""
	ShortageFiles     Shortage = "files"     // descriptors
	ShortageProcesses Shortage = "processes" // processes and threads
	ShortageMemory    Shortage = "memory"
	ShortageDisk      Shortage = "disk"
)

// ShortageOf tells whether an error comes from a shortage.
func ShortageOf(err error) Shortage {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return NoShortage
	}
	switch errno {
	case unix.EMFILE, unix.ENFILE:
		return ShortageFiles
	case unix.EAGAIN:
		return ShortageProcesses
	case unix.ENOMEM, unix.ENOBUFS:
		return ShortageMemory
	case unix.ENOSPC, unix.EDQUOT:
		return ShortageDisk
	}
	return NoShortage
}

// Hint says what to do about it.
func (s Shortage) Hint() string {
	switch s {
	case ShortageFiles:
		return "raise the limit on open files (LimitNOFILE= of the unit, ulimit -n), or lower exec.workers"
	case ShortageProcesses:
		return "raise the limit on processes (TasksMax= of the unit, ulimit -u, pids.max), or lower exec.workers"
	case ShortageMemory:
		return "give the machine more memory, or lower exec.workers"
	case ShortageDisk:
		return "make room in the state directory"
	}
	return ""
}
