package child

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartError says why a program could not be started: the kernel's own word is one for many causes.
type StartError struct {
	Name   string // Spec.Name
	Path   string
	Reason string // for people
	Err    error  // the kernel's, for errors.Is
}

func (e *StartError) Error() string { return fmt.Sprintf("cannot start %s: %s", e.Name, e.Reason) }

func (e *StartError) Unwrap() error { return e.Err }

func explainStart(spec *Spec, err error) error {
	return &StartError{Name: spec.Name, Path: spec.Path, Reason: startReason(spec, err), Err: err}
}

// startReason looks at the files after the fact: at the price of a small race the common case costs
// nothing.
func startReason(spec *Spec, err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	if spec.Dir != "" {
		if reason := dirReason(spec.Dir); reason != "" {
			return reason
		}
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return notFoundReason(spec.Path, errno)
	case unix.ENOEXEC:
		return formatReason(spec.Path)
	case unix.EACCES:
		return accessReason(spec)
	case unix.E2BIG:
		return "its arguments and environment are too big for the kernel (128 KiB for one, by default 2 MiB for all); hand them over by stdin (parameter_delivery: stdin)"
	case unix.ETXTBSY:
		return fmt.Sprintf("%s is open for writing, still after %d tries; close it, or write a new file and rename it into place", spec.Path, len(busyWaits)+1)
	case unix.EAGAIN:
		return "the limit on processes is reached (RLIMIT_NPROC, pids.max or TasksMax)"
	case unix.ENOMEM:
		return "there is no memory left to start a process"
	case unix.EPERM:
		if spec.User != nil {
			return fmt.Sprintf("the daemon may not run it as user %s; that needs root, or CAP_SETUID, CAP_SETGID and CAP_KILL", spec.User.Name)
		}
		return fmt.Sprintf("%s may not be started: %v", spec.Path, errno)
	case unix.EINVAL:
		return nulReason(spec)
	}
	return fmt.Sprintf("%s: %v", spec.Path, errno)
}

func dirReason(dir string) string {
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("its working directory %s does not exist", dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("its working directory %s cannot be entered: permission denied", dir)
	case err != nil:
		return fmt.Sprintf("its working directory %s: %v", dir, err)
	case !st.IsDir():
		return fmt.Sprintf("its working directory %s is not a directory", dir)
	}
	return ""
}

// notFoundReason tells a missing program from one whose interpreter is missing: ENOENT is both.
func notFoundReason(path string, errno syscall.Errno) string {
	if errno == unix.ELOOP {
		return fmt.Sprintf("%s is a symbolic link that leads in a circle", path)
	}
	if _, err := os.Lstat(path); err != nil {
		return fmt.Sprintf("the file %s does not exist", path)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Sprintf("%s is a symbolic link to nowhere", path)
	}
	head := readHead(path)
	if line, ok := shebang(head); ok {
		if strings.HasSuffix(line, "\r") {
			return fmt.Sprintf("line 1 of %s ends in CRLF, so the kernel looks for the interpreter %q; save the file with unix line endings (LF)", path, interpreterOf(line)+"\r")
		}
		return fmt.Sprintf("the interpreter %s that line 1 of %s names does not exist", interpreterOf(line), path)
	}
	if loader := elfLoader(path); loader != "" {
		return fmt.Sprintf("the loader %s that the binary %s wants does not exist; it was built for another system or libc", loader, path)
	}
	return fmt.Sprintf("%s: its interpreter does not exist", path)
}

func formatReason(path string) string {
	head := readHead(path)
	switch {
	case len(head) == 0:
		return fmt.Sprintf("%s is empty", path)
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		return fmt.Sprintf("%s begins with a byte order mark, which hides its first line from the kernel; save it as UTF-8 without BOM", path)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return fmt.Sprintf("%s is a binary for another machine than this one", path)
	}
	if line, ok := shebang(head); ok && interpreterOf(line) == "" {
		return fmt.Sprintf("line 1 of %s is a #! without an interpreter", path)
	}
	return fmt.Sprintf("%s has no #! in its first line and is no binary; begin it with #!/bin/bash, for example", path)
}

func accessReason(spec *Spec) string {
	path := spec.Path
	as := ""
	if spec.User != nil {
		as = " for user " + spec.User.Name
	}
	if spec.User != nil {
		for _, at := range []string{spec.Dir, path} {
			if folder := closedTo(spec.User, at); folder != "" {
				return fmt.Sprintf("user %s may not pass through %s, which leads to %s; give others the x bit on that folder (chmod o+x), or move what is in it", spec.User.Name, folder, at)
			}
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Sprintf("%s cannot be reached: %v", path, err)
	}
	var fsys unix.Statfs_t
	switch {
	case st.IsDir():
		return fmt.Sprintf("%s is a directory, not a program", path)
	case !st.Mode().IsRegular():
		return fmt.Sprintf("%s is not a regular file", path)
	case st.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("%s has no x bit; set it with: chmod +x %s", path, path)
	case unix.Statfs(path, &fsys) == nil && fsys.Flags&unix.ST_NOEXEC != 0:
		return fmt.Sprintf("%s is on a file system that is mounted noexec", path)
	}
	if line, ok := shebang(readHead(path)); ok {
		interp := interpreterOf(line)
		if st, err := os.Stat(interp); err == nil && (st.IsDir() || st.Mode().Perm()&0o111 == 0) {
			return fmt.Sprintf("the interpreter %s that line 1 of %s names cannot be executed", interp, path)
		}
	}
	return fmt.Sprintf("%s, a folder above it or its working directory may not be entered or executed%s: permission denied", path, as)
}

// closedTo gives the first folder on the way to path that keeps the user out; empty: none does, or it is
// not the mode that does.
func closedTo(u *User, path string) string {
	if path == "" || !filepath.IsAbs(path) {
		return ""
	}
	parts := strings.Split(filepath.Clean(path), string(filepath.Separator))
	for i := range parts {
		folder := string(filepath.Separator) + filepath.Join(parts[1:i+1]...)
		var st unix.Stat_t
		if unix.Stat(folder, &st) != nil {
			return ""
		}
		bit := uint32(0o001)
		switch {
		case st.Uid == u.UID:
			bit = 0o100
		case st.Gid == u.GID || slices.Contains(u.Groups, st.Gid):
			bit = 0o010
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&bit == 0 && u.UID != 0 {
			return folder
		}
	}
	return ""
}

func nulReason(spec *Spec) string {
	for i, a := range spec.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Sprintf("argument %d holds a NUL byte, which no argument can carry; hand it over by stdin", i+1)
		}
	}
	for _, v := range spec.Env {
		if strings.IndexByte(v, 0) >= 0 {
			name, _, _ := strings.Cut(v, "=")
			return fmt.Sprintf("variable %s holds a NUL byte, which no environment can carry; hand it over by stdin", name)
		}
	}
	return fmt.Sprintf("%s: invalid argument", spec.Path)
}

// headSize is what the kernel reads of a program to find out how to start it.
const headSize = 256

func readHead(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, _ := f.Read(head)
	return head[:n]
}

// shebang gives what follows #! in the first line, a carriage return included.
func shebang(head []byte) (string, bool) {
	rest, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return "", false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(line), true
}

func interpreterOf(line string) string {
	f := strings.Fields(line)
	if len(f) == 0 {
		return ""
	}
	return filepath.Clean(f[0])
}

func elfLoader(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return string(bytes.TrimRight(name, "\x00"))
			}
		}
	}
	return ""
}
