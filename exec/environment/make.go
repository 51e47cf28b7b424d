package environment

import (
	"context"
	_ "embed" // the check of requirements
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
)

const (
	// openUmask lets other users read what is made, for actions with run_as.
	openUmask = 0o022
	// tailSize is how much of a log is shown, and logSize how much of it is kept.
	tailSize = 4 << 10
	logSize  = 1 << 20
	// stopGrace is what pip and npm get to end.
	stopGrace = 5 * time.Second
)

//go:embed check.py
var checkProgram string

// maker makes one environment.
type maker struct {
	*Manager
	one *one
	ctx context.Context
	out io.Writer
	// mask keeps the passwords of indexes and proxies out of logs and errors.
	mask *child.Mask
	// index is the variable that names where to look, for those that look.
	index string
	tmp   string
}

// make makes an environment; errSystem says that there is nothing to make.
func (m *Manager) make(o *one) (err error) {
	ctx, cancel := context.WithTimeout(m.ctx, m.opts.Timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(m.opts.Dir, "tmp-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %v", err)
	}
	defer os.RemoveAll(tmp)
	k := &maker{Manager: m, one: o, ctx: ctx, mask: child.NewMask(m.passwords()), tmp: tmp}
	if o.need.Runtime == Python && k.isSatisfied() {
		return errSystem
	}
	m.mu.Lock()
	o.state = Making
	m.mu.Unlock()
	log, err := os.OpenFile(m.logFile(o.digest), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write its log: %v", err)
	}
	defer log.Close()
	k.out = &logWriter{file: log, tail: o.tail, left: logSize}
	m.log.Info("making an environment", "digest", o.digest, "runtime", o.need.Runtime, "pack", o.need.Pack)
	// What a former try left is not whole.
	if err := os.RemoveAll(o.dir); err != nil {
		return fmt.Errorf("cannot remove what was left: %v", err)
	}
	if o.need.Runtime == Python {
		err = k.python()
	} else {
		err = k.node()
	}
	if err == nil {
		err = k.seal()
	}
	if err != nil {
		_ = os.RemoveAll(o.dir)
		if ctx.Err() != nil && m.ctx.Err() == nil {
			return fmt.Errorf("it took longer than %v", m.opts.Timeout)
		}
		return err
	}
	return nil
}

// seal marks an environment as whole, once all of it is on disk: after a loss of power a mark without
// what it stands for would be believed.
func (k *maker) seal() error {
	dir, err := os.Open(k.one.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot sync it: %v", err)
	}
	data, err := json.Marshal(k.one.environment())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(k.one.dir, complete), data, 0o600)
}

// passwords are those in the addresses of indexes and proxies; pip and npm print the addresses. Where a
// token is all that an address has, it stands in the place of the user.
func (m *Manager) passwords() []string {
	var list []string
	for _, address := range append(slices.Collect(maps.Values(m.opts.Variables)), m.opts.PythonIndex, m.opts.NodeRegistry) {
		u, err := url.Parse(address)
		if err != nil || u.User == nil {
			continue
		}
		if password, ok := u.User.Password(); ok && password != "" {
			list = append(list, password)
		} else {
			list = append(list, u.User.Username())
		}
	}
	return list
}

// isSatisfied tells whether the interpreter has what is required.
func (k *maker) isSatisfied() bool {
	k.out = io.Discard
	return k.run(k.one.need.Interpreter.Path, k.one.need.Dir, "-c", checkProgram, "requirements.txt") == nil
}

func (k *maker) python() error {
	in, o := k.one.need.Interpreter.Path, k.one
	// An own pip takes seconds to put in place; one that is there can install into another environment.
	var said strings.Builder
	out := k.out
	k.out = &said
	err := k.run(in, k.tmp, "-m", "pip", "--python", in, "--version")
	k.out = out
	python := filepath.Join(o.dir, "bin", "python3")
	pip := []string{"-m", "pip", "--python", python}
	if err == nil {
		err = k.run(in, k.tmp, "-m", "venv", "--without-pip", o.dir)
	} else {
		in, pip = python, []string{"-m", "pip"}
		err = k.run(k.one.need.Interpreter.Path, k.tmp, "-m", "venv", o.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot make a virtual environment with %s: %w (Debian: python3-venv)", o.need.Interpreter.Path, err)
	}
	args := append(pip, "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off")
	switch {
	case k.opts.PythonWheels != "":
		args = append(args, "--no-index", "--find-links", k.opts.PythonWheels)
	case k.opts.PythonIndex != "":
		// An argument could be read by everybody on this machine, and an address may have a password.
		k.index = "PIP_INDEX_URL=" + k.opts.PythonIndex
	}
	if err := k.run(in, o.need.Dir, append(args, "-r", "requirements.txt")...); err != nil {
		return fmt.Errorf("cannot install requirements.txt: %w", err)
	}
	return nil
}

func (k *maker) node() error {
	o := k.one
	if err := os.Mkdir(o.dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(o.dir, 0o755); err != nil { // whatever the umask
		return err
	}
	if o.what.local {
		if err := os.CopyFS(o.dir, os.DirFS(o.need.Dir)); err != nil {
			return fmt.Errorf("cannot copy the pack's files: %v", err)
		}
		if err := opened(o.dir); err != nil {
			return fmt.Errorf("cannot copy the pack's files: %v", err)
		}
	} else {
		for _, name := range []string{"package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"} {
			data, err := os.ReadFile(filepath.Join(o.need.Dir, name))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(o.dir, name), data, 0o600)
			}
			if err != nil {
				return err
			}
		}
	}
	npm := k.npm()
	if npm == "" {
		return fmt.Errorf("cannot find npm in %s: install it (Debian: npm)", child.ChildPath)
	}
	command := "install"
	for _, lock := range []string{"package-lock.json", "npm-shrinkwrap.json"} {
		if _, err := os.Stat(filepath.Join(o.dir, lock)); err == nil {
			command = "ci"
		}
	}
	args := []string{npm, command, "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=warn"}
	if k.opts.NodeRegistry != "" {
		k.index = "npm_config_registry=" + k.opts.NodeRegistry
	}
	if err := k.run(o.need.Interpreter.Path, o.dir, args...); err != nil {
		return fmt.Errorf("cannot install the modules of package.json: %w", err)
	}
	return os.MkdirAll(filepath.Join(o.dir, "node_modules"), 0o755)
}

// opened gives back the right to write to copies of read-only files.
func opened(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.Type()&os.ModeSymlink != 0 {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}

// npm is the script that the interpreter is to run; empty: there is none.
func (k *maker) npm() string {
	beside := filepath.Dir(k.one.need.Interpreter.Path)
	for dir := range strings.SplitSeq(beside+":"+child.ChildPath, ":") {
		if path, err := filepath.EvalSymlinks(filepath.Join(dir, "npm")); err == nil {
			return path
		}
	}
	return ""
}

// run runs one program to its end. The error has the last line that it printed.
func (k *maker) run(path, dir string, args ...string) error {
	env := child.NewEnv(k.tmp, k.tmp)
	for name, value := range k.opts.Variables {
		if err := env.Set(name, value); err != nil {
			return err
		}
	}
	if name, address, ok := strings.Cut(k.index, "="); ok {
		if err := env.Set(name, address); err != nil {
			return err
		}
	}
	said := newTail()
	stdout, stderr := k.mask.Writer(io.MultiWriter(k.out, said)), k.mask.Writer(io.MultiWriter(k.out, said))
	p, err := k.opts.Runner.Start(k.ctx, child.Spec{
		Name: "environment of pack " + k.one.need.Pack, Path: path, Args: args, Dir: dir, Env: env.List(), Umask: openUmask,
		Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-k.ctx.Done():
		if err := p.Stop(stopGrace); err != nil {
			return err
		}
		return k.ctx.Err()
	}
	exit := p.Wait()
	if err := errors.Join(stdout.Close(), stderr.Close()); err != nil {
		return err
	}
	if exit.Code != 0 {
		return fmt.Errorf("%v: %s", exit, said.errorLine())
	}
	return nil
}

// logWriter writes a log to its file, up to a limit, and keeps its tail.
type logWriter struct {
	mu   sync.Mutex
	file *os.File
	tail *tail
	left int
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.tail.Write(p)
	if n := min(len(p), w.left); n > 0 {
		w.left -= n
		_, _ = w.file.Write(p[:n])
	}
	return len(p), nil
}

// tail keeps the end of what was written.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func newTail() *tail { return &tail{} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return child.Sanitize(t.kept)
}

// last is the last line that says something.
func (t *tail) last() string {
	text := strings.TrimSpace(t.text())
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// errorLine is the last line that calls itself an error, or else the last.
func (t *tail) errorLine() string {
	found := t.last()
	for line := range strings.Lines(t.text()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "ERROR:") || strings.HasPrefix(line, "npm error") && len(line) > len("npm error code EXXXXXXXXX") {
			found = line
		}
	}
	return found
}
