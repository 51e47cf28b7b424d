package child

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefresh installs, exchanges and removes a Python, which is reached through a script as version
// managers have them.
func TestRefresh(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	bin := t.TempDir()
	found, err := ProbeInterpreters(t.Context(), r, bin)
	if err != nil {
		t.Fatal(err)
	}
	before := len(found.All())
	look := func(changed bool) {
		t.Helper()
		if got, err := found.Refresh(t.Context(), r, bin); err != nil || got != changed {
			t.Errorf("changed: %v, %v", got, err)
		}
	}
	look(false)
	file := filepath.Join(bin, "python3")
	write := func(version string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte("#!/bin/sh\necho /opt/real/python3; echo "+version+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	newest := func() Interpreter { list := found.All(); return list[len(list)-1] }
	for _, version := range []string{"3.98.1", "3.99.0"} {
		write(version)
		look(true)
		in, err := found.Find("python", "", func(v string) bool { return strings.HasPrefix(v, "3.9") && len(v) > 5 })
		if err != nil || in.Version != version || in.Path != "/opt/real/python3" {
			t.Errorf("%+v, %v, newest %+v", in, err, newest())
		}
		look(false)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	look(true)
	if len(found.All()) != before {
		t.Errorf("%+v", found.All())
	}
}
