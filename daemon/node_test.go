package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNodeOfADeadRunIsKnown(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	for i, step := range []struct {
		node, former string
		leaves       bool
	}{{"a", "", false}, {"b", "a", false}, {"c", "b", true}, {"d", "", false}} {
		former, err := formerNode(state)
		if err == nil {
			err = recordNode(state, step.node)
		}
		if err != nil || former != step.former {
			t.Errorf("start %d: found former node %q, %v; want %q", i, former, err, step.former)
		}
		if step.leaves {
			if err := forgetNode(state); err != nil {
				t.Error(err)
			}
		}
	}
	if err := forgetNode(t.TempDir()); err != nil {
		t.Errorf("forgetting nothing: %v", err)
	}
	if a, b := newNodeID("h"), newNodeID("h"); a == b {
		t.Errorf("two starts have one id %s", a)
	}
}

func TestStateDirectory(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	want := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		want = 0o711
	}
	dir, err := MakeStateDirectory(filepath.Join(base, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
		t.Errorf("found %v, %v; want mode %o", info.Mode(), err, want)
	}
	if _, err := MakeStateDirectory(dir); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeStateDirectory(dir); err == nil {
		t.Error("a folder that others may write was accepted")
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", file} {
		if _, err := MakeStateDirectory(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
