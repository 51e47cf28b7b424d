//go:build faults

package faults

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store"
)

// delegated makes a cgroup v2 and gives the words by which a node begins in it, as systemd would with Delegate=yes.
func delegated(t *testing.T) (wrap []string) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil || !slices.Contains(strings.Fields(string(controllers)), "pids") {
		t.Skipf("%s has no cgroup v2 that bounds processes, but a machine by contrib/cgroup/test.sh does", root)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+pids +memory +cpu"), 0); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, "attune-faults-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Of the daemon's leaf, too: nothing else may be left.
		for _, dir := range []string{filepath.Join(own, "attune.daemon"), own} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := unix.Setxattr(own, "trusted.delegate", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	return []string{"sh", "-c", "echo $$ >" + own + `/cgroup.procs && exec "$@"`, "sh"}
}

// F49: with a cgroup a fork bomb is bounded, ended and told of, in an action and in a sensor, and so is one that
// ends by itself; everybody else goes on.
func TestF49ForkBombInACgroup(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := newYard(t, rude, `
-- bomb/pack.yaml --
ref: bomb
version: 1.0.0
-- bomb/triggers/never.yaml --
name: never
-- bomb/sensors/bomb.yaml --
name: bomb
entry_point: bomb.sh
trigger_types: [never]
limits: {pids: 40}
-- bomb/sensors/bomb.sh --
b() { b | b & }; b 2>/dev/null; sleep 9999
-- bomb/actions/bomb.yaml --
name: bomb
entry_point: bomb.sh
limits: {pids: 40}
-- bomb/actions/bomb.sh --
echo lit; b() { b | b & }; b 2>/dev/null; sleep 9999
-- bomb/actions/greedy.yaml --
name: greedy
entry_point: greedy.py
limits: {pids: 40}
-- bomb/actions/greedy.py --
import subprocess
for _ in range(50):
    subprocess.Popen(["sleep", "9999"])
`)
	n := y.node()
	n.wrap = delegated(t)
	n.start()
	expect := func(action, problems string) {
		t.Helper()
		e := n.execute(api.NewExecution{Action: "bomb." + action})
		if e.Status != store.StatusFailed || !strings.Contains(problem(e), problems) || !strings.Contains(problem(e), "its limit of 40 processes and threads (limits.pids) refused ") {
			t.Errorf("%s is %s: %s; stdout %q, stderr %q", action, e.Status, problem(e), e.Stdout, e.Stderr)
		}
	}
	expect("bomb", "killed as a fork bomb: ")
	expect("greedy", "exit 1: ")
	n.until("the sensor is told to be a bomb", func() bool {
		return n.metric("attune_sensor_restarts_total", `sensor="bomb.bomb"`, `reason="fork_bomb"`) > 0
	})
	if text := n.must("sensor", "show", "bomb.bomb"); !strings.Contains(text, "killed as a fork bomb: its limit of 40 processes and threads (limits.pids) refused ") {
		t.Errorf("of the sensor is told:\n%s", text)
	}
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("beside the bomb the action printed %q", out)
	}
	y.remove("bomb/sensors/bomb.yaml")
	n.until("nothing is left of them", func() bool { return len(n.children()) == 0 })
	n.stop()
}
