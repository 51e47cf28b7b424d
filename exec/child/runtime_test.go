package child

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProbeInterpreters(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	dir := t.TempDir()
	script := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// A shim names another file than itself, a broken one fails.
	real := script("python-real", "#!/bin/sh\nprintf '%s\\n%s\\n' "+dir+"/python-real 9.9.9\n")
	if err := os.Mkdir(filepath.Join(dir, "shims"), 0o700); err != nil {
		t.Fatal(err)
	}
	script("shims/python3", "#!/bin/sh\nexec "+real+" \"$@\"\n")
	script("shims/node", "#!/bin/sh\necho broken >&2; exit 1\n")

	found, err := ProbeInterpreters(t.Context(), r, filepath.Join(dir, "shims")+":relative:/no/such/folder")
	if err != nil {
		t.Fatal(err)
	}
	all := found.All()
	if !slices.Contains(all, Interpreter{Name: "python", Path: real, Version: "9.9.9"}) {
		t.Errorf("the shim was not seen through: %+v", all)
	}
	for i, in := range all {
		if !filepath.IsAbs(in.Path) || strings.Contains(in.Path, "/shims/") || in.Name != "sh" && in.Version == "" {
			t.Errorf("got %+v", in)
		}
		if slices.Contains(all[:i], in) {
			t.Errorf("%+v is there twice", in)
		}
	}
	sh, err := found.Find("shell", "sh", nil)
	if err != nil || sh.Name != "sh" {
		t.Fatalf("got %+v, %v", sh, err)
	}
	path, args, err := found.Command("python", "", func(v string) bool { return v == "9.9.9" }, "/x.py")
	if err != nil || path != real || !slices.Equal(args, []string{"/x.py"}) {
		t.Errorf("got %s %q, %v", path, args, err)
	}
}

// TestProbesThatAreCutShort accuse no interpreter: who asked has ended.
func TestProbesThatAreCutShort(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var log bytes.Buffer
	r.logger = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ProbeInterpreters(ctx, r, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(log.String(), "left out") {
		t.Errorf("logged %s", log.String())
	}
}

func TestFindInterpreter(t *testing.T) {
	t.Parallel()
	i := &Interpreters{searched: "/usr/bin", found: []Interpreter{
		{"shell", "/usr/bin/bash", "5.2.15"},
		{"sh", "/usr/bin/sh", ""},
		{"python", "/usr/bin/python3", "3.11.2"},
		{"python", "/opt/python3.13", "3.13.1"},
	}}
	is := func(want string) func(string) bool { return func(v string) bool { return v == want } }
	for _, tc := range []struct {
		runtime, interpreter string
		ok                   func(string) bool
		path, err            string
	}{
		{"shell", "", nil, "/usr/bin/bash", ""},
		{"shell", "bash", nil, "/usr/bin/bash", ""},
		{"shell", "sh", nil, "/usr/bin/sh", ""},
		{"python", "", nil, "/usr/bin/python3", ""},
		{"python", "", is("3.13.1"), "/opt/python3.13", ""},
		{"python", "", is("2"), "", "cannot find a python3 of the wanted version: this machine has 3.11.2 (/usr/bin/python3), 3.13.1 (/opt/python3.13)"},
		{"node", "", nil, "", "cannot find node or nodejs: there is none in /usr/bin; install nodejs"},
		{"ruby", "", nil, "", `cannot find an interpreter for "ruby": the runtimes are shell, python, node and native`},
	} {
		in, err := i.Find(tc.runtime, tc.interpreter, tc.ok)
		if tc.err != "" {
			if err == nil || err.Error() != tc.err {
				t.Errorf("%s: got %v", tc.runtime, err)
			}
			continue
		}
		if err != nil || in.Path != tc.path {
			t.Errorf("%s: got %+v, %v", tc.runtime, in, err)
		}
	}
	path, args, err := i.Command("native", "", nil, "/pack/x")
	if d := cmp.Diff("/pack/x", path); d != "" || args != nil || err != nil {
		t.Errorf("native: %s %q %v", path, args, err)
	}
}

func TestPlainVersion(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"5.2.15(1)-release": "5.2.15", "3.13.0rc1": "3.13.0", "22.1.0\n": "22.1.0", "": "", "x": ""} {
		if got := plainVersion(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}
