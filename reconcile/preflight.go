package reconcile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

// firstLine is how much of a script is looked at: the kernel reads no more of a "#!" line.
const firstLine = 256 // bytes

// preflight tells before the first start why something would not start: it is the manifest's view of
// the machine.
type preflight struct {
	interpreters Interpreters
	packs        map[string]*preflightPack // by folder name
	now          time.Time
}

var _ manifest.Environment = (*preflight)(nil)

// preflightPack is a pack's folder and the files that a revision of it would have.
type preflightPack struct {
	folder *folder
	files  map[string]*file // by every path that leads to them
}

func newPreflight(interpreters Interpreters, folders []*folder, now time.Time) *preflight {
	p := &preflight{interpreters: interpreters, packs: map[string]*preflightPack{}, now: now}
	for _, f := range folders {
		p.packs[f.ref] = &preflightPack{folder: f, files: reachable(f.files)}
	}
	return p
}

// Runtime says whether an interpreter is there that will do.
func (p *preflight) Runtime(runtime, interpreter, versions string) error {
	if p.interpreters == nil || runtime == manifest.RuntimeNative {
		return nil
	}
	return p.interpreters.Check(runtime, interpreter, versions)
}

// Schedule checks the parameters of a timer trigger.
func (p *preflight) Schedule(triggerType string, parameters map[string]any) (parameter string, err error) {
	if _, bad := ParseSchedule(triggerType, parameters, p.now); bad != nil {
		return bad.Parameter, errors.New(bad.Message)
	}
	return "", nil
}

// EntryPoint checks a script before its first start.
func (p *preflight) EntryPoint(pack, script string, r manifest.Runner) []*manifest.Error {
	known := p.packs[pack]
	if known == nil {
		return nil
	}
	name := path.Base(script)
	if script = path.Clean(script); !fs.ValidPath(script) {
		return []*manifest.Error{fault("keep it inside the pack", "cannot use entry point %q: it leads out of the pack", name)}
	}
	f := known.files[script]
	if f == nil {
		return []*manifest.Error{known.missing(script)}
	}
	if f.mark.size == 0 {
		return []*manifest.Error{fault("write the script", "cannot start %q: it is empty", name)}
	}
	head, err := known.folder.head(f)
	if err != nil {
		return nil // it is being changed: the next scan looks again
	}
	return lookAt(name, f, head, r)
}

// fault is an error of an entry point; its place is the manifest's.
func fault(hint, format string, args ...any) *manifest.Error {
	return &manifest.Error{Severity: manifest.SeverityError, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func caution(hint, format string, args ...any) *manifest.Error {
	e := fault(hint, format, args...)
	e.Severity = manifest.SeverityWarning
	return e
}

// missing says why a path is none of the revision's files.
func (p *preflightPack) missing(script string) *manifest.Error {
	dir, name := path.Dir(script), path.Base(script)
	if root, err := os.OpenRoot(p.folder.real); err == nil {
		defer root.Close()
		if e := onDisk(root, script, name); e != nil {
			return e
		}
	}
	var beside []string
	for at := range p.files {
		if path.Dir(at) == dir && !manifest.IsManifest(at) {
			beside = append(beside, path.Base(at))
		}
	}
	slices.Sort(beside)
	hint := "write the script, or name one that is there"
	if near := manifest.Nearest(name, beside); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return fault(hint, "cannot find entry point %q in %s/", name, dir)
}

// onDisk tells what there is at a path that the scan did not keep; nil: nothing.
func onDisk(root *os.Root, script, name string) *manifest.Error {
	info, err := root.Lstat(script)
	if err != nil {
		return nil
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return fault("name a file in it", "cannot start %q: it is a folder", name)
	case mode&fs.ModeSymlink != 0:
		target, err := root.Readlink(script)
		if err != nil {
			return nil
		}
		if _, err := resolveInside(root, script); err != nil {
			why := err.Error()
			if !isEscape(err) {
				why = "that is not there"
			}
			return fault("put the script itself into the pack", "cannot start %q: it is a link to %q, and %s", name, target, why)
		}
		return fault("", "cannot start %q: it is a link to %q, which is no file", name, target)
	case !mode.IsRegular():
		return fault("", "cannot start %q: it is %s", name, special(mode))
	}
	for part := range strings.SplitSeq(script, "/") {
		if ignored(part) {
			return fault("rename it", "cannot start %q: files named like %q are not kept in a revision", name, part)
		}
	}
	return fault("chmod a+r it", "cannot start %q: it cannot be read", name)
}

// head gives the beginning of a file.
func (f *folder) head(one *file) ([]byte, error) {
	root, err := os.OpenRoot(f.real)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	in, err := root.OpenFile(one.source(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	head := make([]byte, firstLine)
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return head[:n], nil
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// lookAt tells what is wrong with a script's first line. For native the kernel reads it; the other
// runtimes are given the script, so there only what the interpreter trips over counts.
func lookAt(name string, f *file, head []byte, r manifest.Runner) []*manifest.Error {
	var found []*manifest.Error
	native := r.RunnerType == manifest.RuntimeNative
	marked := bytes.HasPrefix(head, byteOrderMark)
	text := bytes.TrimPrefix(head, byteOrderMark)
	line, _, _ := bytes.Cut(text, []byte("\n"))
	crlf := bytes.HasSuffix(line, []byte("\r")) && len(line) < len(text)
	line = bytes.TrimSuffix(line, []byte("\r"))
	if marked && (native || r.RunnerType == manifest.RuntimeShell) {
		found = append(found, fault("save it without", "cannot start %q: it begins with a byte order mark", name))
	}
	if crlf && (native || r.RunnerType == manifest.RuntimeShell) {
		found = append(found, fault("save it with LF line ends", "cannot start %q: its line 1 ends in CRLF", name))
	}
	if native {
		return append(found, lookAtNative(name, f, text, line)...)
	}
	if program := interpreterOf(line); program != "" && !fits(program, r) {
		found = append(found, caution("correct the one or the other",
			"cannot start %q as its first line says: found %s, but runner_type starts it with %s", name, program, starter(r)))
	}
	return found
}

// starter is the interpreter that a runner names.
func starter(r manifest.Runner) string {
	if r.Interpreter != "" {
		return r.Interpreter
	}
	return r.RunnerType
}

// lookAtNative checks what the kernel is asked to start.
func lookAtNative(name string, f *file, text, line []byte) []*manifest.Error {
	var found []*manifest.Error
	if !f.mark.executable() {
		found = append(found, fault("chmod +x it", "cannot start %q: it has no x bit (mode %04o)", name, f.mark.mode&0o777))
	}
	switch {
	case bytes.HasPrefix(text, []byte("\x7fELF")):
	case bytes.HasPrefix(line, []byte("#!")):
		words := strings.Fields(string(line[2:]))
		if len(words) == 0 {
			return append(found, fault("name one, as in #!/bin/sh", "cannot start %q: its first line names no interpreter", name))
		}
		if _, err := os.Stat(words[0]); err != nil {
			found = append(found, fault("install it, or correct the line", "cannot start %q: its interpreter %s is not there", name, words[0]))
		}
	default:
		found = append(found, fault("begin it with #! and an interpreter, or set runner_type",
			"cannot start %q: it is neither a program nor a script with #! in its first line", name))
	}
	return found
}

// interpreterOf gives the name of the program in a "#!" line; empty: there is no such line.
func interpreterOf(line []byte) string {
	text, ok := strings.CutPrefix(string(line), "#!")
	if !ok {
		return ""
	}
	words := strings.Fields(text)
	if len(words) > 0 && path.Base(words[0]) == "env" {
		words = words[1:]
		for len(words) > 0 && (strings.HasPrefix(words[0], "-") || strings.Contains(words[0], "=")) {
			words = words[1:]
		}
	}
	if len(words) == 0 {
		return ""
	}
	return path.Base(words[0])
}

// fits says whether a script that names a program may be started with the runner's: a bash can do
// what is written for sh, but not the other way round.
func fits(program string, r manifest.Runner) bool {
	switch r.RunnerType {
	case manifest.RuntimeShell:
		return program == "sh" || program == "dash" || program == "bash" && r.Interpreter != "sh"
	case manifest.RuntimePython:
		return strings.HasPrefix(program, "python")
	case manifest.RuntimeNode:
		return program == "node" || program == "nodejs"
	default:
		return true
	}
}
