//go:build faults

package faults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const restorable = `
-- keep/pack.yaml --
ref: keep
version: 1.0.0
-- keep/actions/tell.yaml --
name: tell
runner_type: shell
entry_point: tell.sh
parameters: {text: {type: string}}
-- keep/actions/tell.sh --
echo "$ATTUNE_ACTION_TEXT"
`

// TestPrivateDatabaseIsRestored backs the private database up, loses the whole of it, and has a daemon go on
// from the backup, with all that was on record.
func TestPrivateDatabaseIsRestored(t *testing.T) {
	t.Parallel()
	y := emptyYard(t)
	y.unpack(restorable)
	n := y.node().start()
	for _, text := range []string{"one", "two", "three"} {
		n.must("run", "keep.tell", "text="+text)
	}
	n.must("action", "disable", "keep.tell", "--reason", "for later")
	what := func() string {
		return n.must("execution", "list", "-o", "json") + n.must("execution", "show", "3", "-o", "json") + n.must("pack", "history", "keep", "-o", "json") +
			n.must("action", "list", "--all", "-o", "json") + n.must("audit", "list", "-o", "json")
	}
	before := what()
	dump := filepath.Join(n.home, "all.dump")
	n.must("database", "backup", dump)
	if _, errs, code := n.run("database", "restore", dump, "--force"); code != 1 || !strings.Contains(errs, "another daemon is using it") {
		t.Errorf("beside its daemon: exit %d, %s", code, errs)
	}
	n.stop()

	y.check(os.RemoveAll(filepath.Join(n.state, "postgres")))
	out := n.must("database", "restore", dump)
	if !strings.Contains(out, "restored from "+dump) {
		t.Errorf("found %q", out)
	}
	n.start()
	if after := what(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
