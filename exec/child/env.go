package child

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ChildPath is the PATH that children get.
const ChildPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	// EnvRunID marks every process of a run, so that none outlives it.
	EnvRunID = "ATTUNE_RUN_ID"
	// EnvChildID marks every process of one child within its run, so that its tree is found also where
	// it left the process group.
	EnvChildID = "ATTUNE_CHILD_ID"
)

// utf8Locale is the one locale of UTF-8 that every libc has.
const utf8Locale = "C.UTF-8"

// childShell is what cron names, too.
const childShell = "/bin/sh"

// Env is an environment under construction: it starts empty, for a child gets nothing by accident.
type Env struct{ vars map[string]string }

// NewEnv starts with PATH, SHELL, LANG and TZ (the daemon's, where set), HOME and TMPDIR, and
// PYTHONDONTWRITEBYTECODE. HOME and TMPDIR are left out where empty. Programs speak UTF-8 also where
// nothing names a locale: see List.
func NewEnv(home, tmp string) *Env {
	const some = 32 // as many as most children have
	e := &Env{vars: make(map[string]string, some)}
	// Without SHELL each bash asks who its user is, of a directory server where users come from one.
	e.vars["PATH"], e.vars["SHELL"] = ChildPath, childShell
	// Packs are run from folders that cannot be written.
	e.vars["PYTHONDONTWRITEBYTECODE"] = "1"
	for _, name := range []string{"LANG", "TZ"} {
		// That LANG means the same as what List gives where there is none.
		if v := os.Getenv(name); v != "" && v != utf8Locale {
			e.vars[name] = v
		}
	}
	if home != "" {
		e.vars["HOME"] = home
	}
	if tmp != "" {
		e.vars["TMPDIR"] = tmp
	}
	return e
}

// Set adds or replaces a variable. A value with a NUL is refused with an error that names the
// variable, never the value, as it may be a secret.
func (e *Env) Set(name, value string) error {
	switch {
	case name == "":
		return fmt.Errorf("cannot set a variable without a name")
	case strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("cannot set variable %q: its name holds a '=' or a NUL", name)
	case strings.IndexByte(value, 0) >= 0:
		return fmt.Errorf("cannot set variable %s: its value holds a NUL byte, which no environment can carry; hand it over by stdin", name)
	}
	e.vars[name] = value
	return nil
}

// List gives the variables as "name=value", sorted. Where none of them says what characters are, LC_CTYPE
// says that they are UTF-8. LANG would mean the same, for C.UTF-8 is C in everything else, but have glibc
// read twelve files instead of one: a tenth of what a short script takes.
func (e *Env) List() []string {
	list := make([]string, 0, len(e.vars)+1)
	named := false
	for name, value := range e.vars {
		list = append(list, name+"="+value)
		named = named || name == "LANG" || name == "LC_ALL" || name == "LC_CTYPE"
	}
	if !named {
		list = append(list, "LC_CTYPE="+utf8Locale)
	}
	slices.Sort(list)
	return list
}

// DataFolder names the folder of a pack's data: each user that its children run as has one of their
// own, for none could use another's. No pack's ref has a dot.
func DataFolder(pack string, as *User) string {
	if as == nil {
		return pack
	}
	return pack + "." + strconv.FormatUint(uint64(as.UID), 10)
}

// Key makes the part of a variable's name that stands for a parameter: upper case, everything
// outside A-Z and 0-9 an underscore.
func Key(parameter string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, parameter)
}
