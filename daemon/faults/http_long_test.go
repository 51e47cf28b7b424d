//go:build faults

package faults

import (
	"strings"
	"testing"
)

// F102 by a daemon: actions and sensors alike are stopped, and it counts that.
func TestF102BlockedIsCounted(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- ask/pack.yaml --
ref: ask
version: 1.0.0
-- ask/actions/note.yaml --
name: note
entry_point: note.sh
-- ask/actions/note.sh --
true
-- ask/rules/poll.yaml --
name: poll
trigger: {ref: core.http_changed, parameters: {url: "http://169.254.169.254/", interval: 3600}}
action: note
`)
	y.shippedCore()
	r := newReached(y)
	n := y.node(`packs.config.core.http_deny = ["127.0.0.1/32"]`).start()
	out, _, code := n.run("run", "core.http_request", "url=http://"+r.v4+"/")
	if code != 1 || !strings.Contains(out, "127.0.0.1 is in 127.0.0.1/32, which http_deny names") {
		t.Errorf("exit %d, %s", code, out)
	}
	if out, _, code := n.run("run", "core.http_request", "url=http://"+r.other+"/"); code != 0 || !strings.Contains(out, "fine") {
		t.Errorf("exit %d, %s", code, out)
	}
	n.until("both were counted", func() bool { return n.metric("attune_http_blocked_total") == 2 })
	n.until("the sensor's log tells why", func() bool {
		return strings.Contains(n.must("sensor", "logs", "core.http_poll"), "169.254.169.254 is link-local, which is never reached unless http_allow names it")
	})
	if lines := n.metric("attune_sensor_lines_total", `outcome="bad"`, `sensor="core.http_poll"`); lines != 0 {
		t.Errorf("%v bad lines of core.http_poll", lines)
	}
}
