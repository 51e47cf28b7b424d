package reconcile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestEntryPoint(t *testing.T) {
	t.Parallel()
	shell := manifest.Runner{RunnerType: manifest.RuntimeShell, Interpreter: "bash"}
	sh := manifest.Runner{RunnerType: manifest.RuntimeShell, Interpreter: "sh"}
	python := manifest.Runner{RunnerType: manifest.RuntimePython}
	node := manifest.Runner{RunnerType: manifest.RuntimeNode}
	native := manifest.Runner{RunnerType: manifest.RuntimeNative}
	tests := map[string]struct {
		make   func(f *testTree)
		path   string // in actions/; else x.sh
		runner manifest.Runner
		want   []string
	}{
		"good":      {func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/bash\necho\n") }, "", shell, nil},
		"no line":   {func(f *testTree) { f.write("p/actions/x.sh", "echo") }, "", shell, nil},
		"python":    {func(f *testTree) { f.write("p/actions/x.sh", "#!/usr/bin/env python3\n") }, "", python, nil},
		"node":      {func(f *testTree) { f.write("p/actions/x.sh", "#!/usr/bin/env -S node --x\n") }, "", node, nil},
		"sh by sh":  {func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/sh\n") }, "", sh, nil},
		"by a link": {func(f *testTree) { f.write("p/lib/y", "x"); f.do(os.Symlink("../lib/y", f.path("p/actions/x.sh"))) }, "", shell, nil},
		"elsewhere": {func(f *testTree) { f.write("p/lib/y", "x") }, "../lib/y", shell, nil},
		"missing": {
			func(f *testTree) { f.write("p/actions/xy.sh", "x") }, "", shell,
			[]string{`error: cannot find entry point "x.sh" in actions/; did you mean "xy.sh"?`},
		},
		"missing with nothing near": {
			func(f *testTree) { f.write("p/actions/another.py", "x") }, "", shell,
			[]string{`error: cannot find entry point "x.sh" in actions/; write the script, or name one that is there`},
		},
		"out of the pack": {
			func(f *testTree) {}, "../../x.sh", shell,
			[]string{`error: cannot use entry point "x.sh": it leads out of the pack; keep it inside the pack`},
		},
		"link out of the pack": {
			func(f *testTree) { f.do(os.Symlink("/etc/passwd", f.path("p/actions/x.sh"))) }, "", shell,
			[]string{`error: cannot start "x.sh": it is a link to "/etc/passwd", and it leads out of the pack; put the script itself into the pack`},
		},
		"link to nothing": {
			func(f *testTree) { f.do(os.Symlink("nothing", f.path("p/actions/x.sh"))) }, "", shell,
			[]string{`error: cannot start "x.sh": it is a link to "nothing", and that is not there; put the script itself into the pack`},
		},
		"folder": {
			func(f *testTree) { f.do(os.Mkdir(f.path("p/actions/x.sh"), 0o755)) }, "", shell,
			[]string{`error: cannot start "x.sh": it is a folder; name a file in it`},
		},
		"ignored": {
			func(f *testTree) { f.write("p/actions/x.tmp", "x") }, "x.tmp", shell,
			[]string{`error: cannot start "x.tmp": files named like "x.tmp" are not kept in a revision; rename it`},
		},
		"empty": {
			func(f *testTree) { f.write("p/actions/x.sh", "") }, "", shell,
			[]string{`error: cannot start "x.sh": it is empty; write the script`},
		},
		"crlf": {
			func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/bash\r\necho\r\n") }, "", shell,
			[]string{`error: cannot start "x.sh": its line 1 ends in CRLF; save it with LF line ends`},
		},
		"crlf does no harm to python": {func(f *testTree) { f.write("p/actions/x.sh", "#!/usr/bin/python3\r\n") }, "", python, nil},
		"byte order mark": {
			func(f *testTree) { f.write("p/actions/x.sh", "\ufeff#!/bin/bash\n") }, "", shell,
			[]string{`error: cannot start "x.sh": it begins with a byte order mark; save it without`},
		},
		"another interpreter": {
			func(f *testTree) { f.write("p/actions/x.sh", "#!/usr/bin/env python3\n") }, "", shell,
			[]string{`warning: cannot start "x.sh" as its first line says: found python3, but runner_type starts it with bash; correct the one or the other`},
		},
		"bash by sh": {
			func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/bash\n") }, "", sh,
			[]string{`warning: cannot start "x.sh" as its first line says: found bash, but runner_type starts it with sh; correct the one or the other`},
		},
		"no x bit is fine for a shell": {func(f *testTree) { f.write("p/actions/y", "echo\n") }, "y", shell, nil},
		"native":                       {func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/sh\n") }, "", native, nil},
		"native program":               {func(f *testTree) { f.write("p/actions/x.sh", "\x7fELF....") }, "", native, nil},
		"native without x bit": {
			func(f *testTree) { f.write("p/actions/y", "#!/bin/sh\n") }, "y", native,
			[]string{`error: cannot start "y": it has no x bit (mode 0644); chmod +x it`},
		},
		"native without shebang": {
			func(f *testTree) { f.write("p/actions/x.sh", "echo\n") }, "", native,
			[]string{`error: cannot start "x.sh": it is neither a program nor a script with #! in its first line; begin it with #! and an interpreter, or set runner_type`},
		},
		"native without interpreter": {
			func(f *testTree) { f.write("p/actions/x.sh", "#!/no/such/thing -x\n") }, "", native,
			[]string{`error: cannot start "x.sh": its interpreter /no/such/thing is not there; install it, or correct the line`},
		},
		"native with crlf": {
			func(f *testTree) { f.write("p/actions/x.sh", "#!/bin/sh\r\n") }, "", native,
			[]string{`error: cannot start "x.sh": its line 1 ends in CRLF; save it with LF line ends`},
		},
		"native naming nothing": {
			func(f *testTree) { f.write("p/actions/x.sh", "#! \n") }, "", native,
			[]string{`error: cannot start "x.sh": its first line names no interpreter; name one, as in #!/bin/sh`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTree(t)
			f.write("p/pack.yaml", "ref: p\n")
			f.do(os.MkdirAll(f.path("p/actions"), 0o755))
			test.make(f)
			v := look(t, newScanner(uncovered{}, 0), f, "p")
			p := newPreflight(nil, []*folder{v.folder}, time.Now())
			at := test.path
			if at == "" {
				at = "x.sh"
			}
			have := manifest.Errors(p.EntryPoint("p", filepath.Join("actions", at), test.runner))
			if test.want == nil {
				test.want = []string{}
			}
			if diff := cmp.Diff(test.want, texts(have)); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
		})
	}
}

type noPython struct{}

func (noPython) Check(runtime, _, versions string) error {
	if runtime == manifest.RuntimePython {
		return errors.New("no python " + versions)
	}
	return nil
}

func TestPreflightAsksTheMachine(t *testing.T) {
	t.Parallel()
	p := newPreflight(noPython{}, nil, time.Now())
	if err := p.Runtime(manifest.RuntimePython, "", ">= 3"); err == nil || err.Error() != "no python >= 3" {
		t.Errorf("python: %v", err)
	}
	if err := p.Runtime(manifest.RuntimeNative, "", ""); err != nil {
		t.Errorf("native: %v", err)
	}
	if name, err := p.Schedule(manifest.TriggerCron, map[string]any{"expression": "nonsense"}); name != "expression" || err == nil {
		t.Errorf("schedule: %q %v", name, err)
	}
	if _, err := p.Schedule(manifest.TriggerCron, map[string]any{"expression": "* * * * *"}); err != nil {
		t.Errorf("schedule: %v", err)
	}
}
