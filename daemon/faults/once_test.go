package faults

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A batch that is sent twice with one Idempotency-Key, as who got no answer does, is queued once and answered alike.
func TestBatchIsQueuedOnce(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- some/pack.yaml --
ref: some
version: 1.0.0
-- some/actions/act.yaml --
name: act
entry_point: act.sh
parameters: {n: {type: integer}}
-- some/actions/act.sh --
true
`)
	n := y.node().start()
	send := func(key, body string) string {
		t.Helper()
		out, err := exec.Command("curl", "-sS", "--unix-socket", filepath.Join(n.home, "s"), "-H", "Content-Type: application/json",
			"-H", "Idempotency-Key: "+key, "-d", body, "http://attune/api/v1/executions/batch").Output()
		y.check(err)
		return string(out)
	}
	const batch = `{"executions": [{"action_ref": "some.act", "parameters": {"n": 1}}, {"action_ref": "some.act", "parameters": {"n": 2}}]}`
	first := send("one", batch)
	if second := send("one", batch); second != first || strings.Contains(first, `"code"`) {
		t.Errorf("answered %s, then %s", first, second)
	}
	if other := send("one", strings.Replace(batch, `"n": 2`, `"n": 3`, 1)); !strings.Contains(other, `"conflict"`) || !strings.Contains(other, "it came with another request before") {
		t.Errorf("another request with the key: %s", other)
	}
	if again := send("two", batch); again == first {
		t.Errorf("another key: %s", again)
	}
	if queued := y.query("SELECT count(*) FROM execution_now"); !slices.Equal(queued, []string{"4"}) {
		t.Errorf("%v executions, want 4", queued)
	}
}
