package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeTimeout is for one interpreter: a shim of a version manager may be slow, a broken one hangs.
	probeTimeout = 5 * time.Second
	// probeOutput bounds what a probe may print.
	probeOutput = 4 << 10
)

// Interpreter is a program that can start scripts.
type Interpreter struct {
	Name    string // "shell", "sh", "python" or "node"
	Path    string // real path, shims resolved
	Version string // "5.2.15"; empty for sh, which has none to tell
}

// Interpreters are those found on this machine, the preferred first. They are safe for concurrent use.
type Interpreters struct {
	searched string // for errors

	mu    sync.Mutex
	found []Interpreter
	seen  string // what the search path looked like
}

// Refresh looks again where a program in the search path came, went or changed, and tells whether what
// was found is different now.
func (i *Interpreters) Refresh(ctx context.Context, r *Runner, extraPath string) (changed bool, err error) {
	i.mu.Lock()
	same := i.seen == looks(i.searched)
	i.mu.Unlock()
	if same {
		return false, nil
	}
	fresh, err := ProbeInterpreters(ctx, r, extraPath)
	if err != nil {
		return false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	changed = !slices.Equal(i.found, fresh.found)
	i.found, i.seen = fresh.found, fresh.seen
	return changed, nil
}

// looks tells the programs in a PATH apart from what they may be later.
func looks(search string) string {
	var b strings.Builder
	for _, k := range kinds() {
		for _, path := range programsIn(search, k.programs) {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil {
				fmt.Fprintln(&b, path, st.Dev, st.Ino, st.Size, st.Mtim.Nano())
			}
		}
	}
	return b.String()
}

// kind is one interpreter that we know how to ask.
type kind struct {
	name     string
	programs []string
	args     []string // make it print its file and its version, a line each
	install  string
}

func kinds() []kind {
	return []kind{
		{"shell", []string{"bash"}, []string{"--noprofile", "--norc", "-c", `printf '%s\n%s\n' "$BASH" "$BASH_VERSION"`}, "bash"},
		{"sh", []string{"sh"}, []string{"-c", `printf '\n\n'`}, "a POSIX shell"},
		{"python", []string{"python3"}, []string{"-I", "-S", "-c", "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])"}, "python3"},
		{"node", []string{"node", "nodejs"}, []string{"-p", `process.execPath + "\n" + process.versions.node`}, "nodejs"},
	}
}

// ProbeInterpreters looks for bash, sh, python3 and node: first in ChildPath, then in extraPath
// (a PATH, may be empty), and asks each for its version and its real file, so that no shim of a
// version manager stands in the way of every start. One that does not answer is logged and left out;
// the error is for ctx alone.
func ProbeInterpreters(ctx context.Context, r *Runner, extraPath string) (*Interpreters, error) {
	search := ChildPath
	if extraPath != "" {
		search += ":" + extraPath
	}
	type candidate struct {
		kind kind
		path string
	}
	var candidates []candidate
	for _, k := range kinds() {
		for _, path := range programsIn(search, k.programs) {
			candidates = append(candidates, candidate{k, path})
		}
	}
	seen := looks(search)
	answers := make([]*Interpreter, len(candidates))
	var probes sync.WaitGroup
	for i, c := range candidates {
		probes.Go(func() {
			in, err := probe(ctx, r, c.kind, c.path, search)
			if ctx.Err() != nil {
				return // the daemon ends: it may well have answered
			}
			if err != nil {
				r.logger.Warn("interpreter does not answer, it is left out", "path", c.path, "err", err)
				return
			}
			if _, script := shebang(readHead(c.path)); script {
				r.logger.Warn("interpreter is found through a script of a version manager, and started without it", "path", in.Path, "script", c.path)
			}
			answers[i] = in
		})
	}
	probes.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot look for interpreters: %w", err)
	}
	found := &Interpreters{searched: search, seen: seen}
	for _, in := range answers {
		if in != nil && !slices.Contains(found.found, *in) {
			found.found = append(found.found, *in)
		}
	}
	return found, nil
}

// programsIn finds the programs in a PATH, each file once: /bin is often /usr/bin. The folder is
// resolved, the file is not: a python in a virtual environment is a link, and means something else than
// its target.
func programsIn(search string, names []string) []string {
	var paths []string
	for _, dir := range filepath.SplitList(search) {
		if !filepath.IsAbs(dir) {
			continue // would depend on where the daemon stands
		}
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			path := filepath.Join(dir, name)
			st, err := os.Stat(path)
			if err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// Scripts gives the interpreters in a PATH that are scripts, of a version manager, say, and that no program
// comes before.
func Scripts(path string) []string {
	var found []string
	for _, k := range kinds() {
		programs := programsIn(path, k.programs)
		if len(programs) == 0 {
			continue
		}
		if _, script := shebang(readHead(programs[0])); script {
			found = append(found, programs[0])
		}
	}
	return found
}

func probe(ctx context.Context, r *Runner, k kind, path, search string) (*Interpreter, error) {
	env := NewEnv(os.Getenv("HOME"), os.TempDir())
	if err := env.Set("PATH", search); err != nil { // a shim looks for its version manager there
		return nil, err
	}
	out, err := ask(ctx, r, Spec{Name: "probe of " + path, Path: path, Args: k.args, Env: env.List(), Dir: "/"})
	if err != nil {
		return nil, err
	}
	real, version, _ := strings.Cut(strings.TrimRight(out, "\n"), "\n")
	in := &Interpreter{Name: k.name, Path: real, Version: plainVersion(version)}
	if in.Path == "" {
		in.Path = path
	}
	if !filepath.IsAbs(in.Path) {
		return nil, fmt.Errorf("it says that its file is %q", in.Path)
	}
	return in, nil
}

// ask runs a short program and gives its stdout.
func ask(ctx context.Context, r *Runner, spec Spec) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	stdout, stderr := NewCapture(probeOutput, nil), NewCapture(probeOutput, nil)
	spec.Stdout, spec.Stderr = stdout, stderr
	p, err := r.Start(ctx, spec)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		if err := p.Stop(0); err != nil {
			return "", err
		}
		return "", fmt.Errorf("no answer: %w", ctx.Err())
	}
	if exit := p.Wait(); exit.Code != 0 {
		text, _, _ := stderr.Text()
		first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
		return "", fmt.Errorf("%v: %s", exit, first)
	}
	out, ok := stdout.Raw()
	if !ok {
		return "", errors.New("it printed too much")
	}
	return string(bytes.ToValidUTF8(out, nil)), nil
}

// plainVersion cuts "5.2.15(1)-release" down to its numbers.
func plainVersion(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); i >= 0 {
		s = s[:i]
	}
	return strings.TrimRight(s, ".")
}

// All lists what was found.
func (i *Interpreters) All() []Interpreter {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.found)
}

// Find gives the first interpreter of the runtime ("shell" with interpreter "bash" or "sh",
// "python", "node") whose version satisfies ok (nil: any). The error says what was found and what
// would do.
func (i *Interpreters) Find(runtime, interpreter string, ok func(version string) bool) (*Interpreter, error) {
	name := runtime
	if runtime == "shell" && interpreter == "sh" {
		name = "sh"
	}
	at := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == name })
	if at < 0 {
		return nil, fmt.Errorf("cannot find an interpreter for %q: the runtimes are shell, python, node and native", runtime)
	}
	k := kinds()[at]
	var others []string
	for _, in := range i.All() {
		if in.Name != name {
			continue
		}
		if ok == nil || ok(in.Version) {
			return &in, nil
		}
		others = append(others, fmt.Sprintf("%s (%s)", in.Version, in.Path))
	}
	if len(others) > 0 {
		return nil, fmt.Errorf("cannot find a %s of the wanted version: this machine has %s", k.programs[0], strings.Join(others, ", "))
	}
	return nil, fmt.Errorf("cannot find %s: there is none in %s; install %s", strings.Join(k.programs, " or "), i.searched, k.install)
}

// Command gives program and arguments that start a script: the interpreter and the script, or the
// script alone for native.
func (i *Interpreters) Command(runtime, interpreter string, ok func(version string) bool, script string) (path string, args []string, err error) {
	if runtime == "native" {
		return script, nil, nil
	}
	in, err := i.Find(runtime, interpreter, ok)
	if err != nil {
		return "", nil, err
	}
	return in.Path, []string{script}, nil
}
