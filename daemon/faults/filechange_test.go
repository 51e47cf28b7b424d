package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Files that appear and change lead to executions, once each, also when that happens while the daemon is
// dead.
func TestFilesThatChange(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.shippedCore()
	in := filepath.Join(y.dir, "in")
	y.check(os.Mkdir(in, 0o755))
	y.unpack(fmt.Sprintf(`
-- files/pack.yaml --
ref: files
version: 1.0.0
-- files/rules/came.yaml --
trigger: {ref: core.filechange, parameters: {glob: "%s/**/*.csv", settle: 0.05}}
action: {ref: core.echo, parameters: {message: "{{ event.payload.event }} {{ event.payload.name }} {{ event.payload.size }}"}}
`, in))
	n := y.node().start()
	// Each comes whole: one that is seen between its making and its content is told twice.
	put := func(name, content string) {
		t.Helper()
		y.check(os.MkdirAll(filepath.Dir(filepath.Join(in, name)), 0o755))
		y.check(os.WriteFile(filepath.Join(y.dir, "whole"), []byte(content), 0o644))
		y.check(os.Rename(filepath.Join(y.dir, "whole"), filepath.Join(in, name)))
	}
	seen := func() []string {
		return y.query(`SELECT trim(trailing E'\n' FROM text) FROM output JOIN execution ON execution.id = execution_id
			WHERE rule_ref = 'files.came' AND stream = 'stdout' ORDER BY execution.id`)
	}
	comes := func(text string) {
		t.Helper()
		n.until("it runs for: "+text, func() bool { return slices.Contains(seen(), text) })
	}
	n.sensorPID("core.filechange_sensor")
	n.until("the sensor knows what is there", func() bool {
		return exists(filepath.Join(n.state, "data", "core", "filechange.json"))
	})
	put("a.csv", "a")
	put("a.txt", "a")
	comes("created a.csv 1")
	n.kill()
	put("a.csv", "changed")
	put("deep/b.csv", "b")
	n.start()
	comes("modified a.csv 7")
	comes("created b.csv 1")
	y.check(os.Remove(filepath.Join(in, "a.csv")))
	comes("deleted a.csv 7")
	have := seen()
	slices.Sort(have)
	if want := []string{"created a.csv 1", "created b.csv 1", "deleted a.csv 7", "modified a.csv 7"}; !slices.Equal(have, want) {
		t.Errorf("ran for %q, want %q", have, want)
	}
}
