package faults

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/attune-io/attune/daemon/api"
)

// newsPack has core's triggers of what happens to Attune itself, and a pack whose rules listen: each
// runs an action that does nothing but end.
const newsPack = `
-- core/pack.yaml --
ref: core
version: 1.0.0
-- core/triggers/execution_finished.yaml --
name: execution_finished
-- core/triggers/sensor_state_changed.yaml --
name: sensor_state_changed
-- core/triggers/pack_applied.yaml --
name: pack_applied
-- core/triggers/pack_failed.yaml --
name: pack_failed
-- core/triggers/node_state_changed.yaml --
name: node_state_changed
-- news/pack.yaml --
ref: news
version: 1.0.0
-- news/actions/page.yaml --
name: page
entry_point: page.sh
parameters: {text: {type: string}}
-- news/actions/page.sh --
echo "$ATTUNE_ACTION_TEXT"
-- news/actions/work.yaml --
name: work
entry_point: work.sh
on_lost: retry
-- news/actions/work.sh --
true
-- news/rules/execution.yaml --
trigger: core.execution_finished
when: event.payload.action == "news.work"
action: {ref: page, parameters: {text: "{{ event.payload.execution_id }} {{ event.payload.status }}"}}
-- news/rules/sensor.yaml --
trigger: core.sensor_state_changed
action: {ref: page, parameters: {text: "sensor {{ event.payload.sensor }} {{ event.payload.state }}"}}
-- news/rules/applied.yaml --
trigger: core.pack_applied
action: {ref: page, parameters: {text: "applied {{ event.payload.pack }} {{ event.payload.revision }}"}}
-- news/rules/failed.yaml --
trigger: core.pack_failed
action: {ref: page, parameters: {text: "failed {{ event.payload.pack }} {{ event.payload.errors[0].message }}"}}
-- news/rules/node.yaml --
trigger: core.node_state_changed
action: {ref: page, parameters: {text: "node {{ event.payload.state }}"}}
`

// pages are what has been paged, sorted.
func (n *node) pages() []string {
	n.Helper()
	return n.query(`SELECT trim(trailing E'\n' FROM text) FROM output JOIN execution ON execution.id = execution_id
		WHERE action_ref = 'news.page' AND stream = 'stdout' ORDER BY 1`)
}

// What happens to Attune itself reaches the rules that want to know.
func TestNewsOfAttune(t *testing.T) {
	t.Parallel()
	y := newYard(t, newsPack)
	n := y.node().start()
	paged := func(text string) {
		t.Helper()
		n.until("it is told: "+text, func() bool { return slices.Contains(n.pages(), text) })
	}
	// What the start has to tell may be paged before.
	work := n.execute(api.NewExecution{Action: "news.work"}).ID
	paged(fmt.Sprintf("%d succeeded", work))
	y.unpack(demo)
	n.whole("demo")
	paged("applied demo 1")
	paged("sensor demo.beat running")
	rule := y.read("demo/rules/reply.yaml")
	y.write("demo/rules/reply.yaml", "enabled: maybe\n"+rule)
	n.until("the edit is refused", func() bool { return strings.Contains(n.errorsOf("demo"), "enabled") })
	n.until("the failure is told", func() bool {
		return slices.ContainsFunc(n.pages(), func(text string) bool {
			return strings.HasPrefix(text, "failed demo ") && strings.Contains(text, "enabled")
		})
	})
	other := y.node().start()
	paged("node joined")
	// Its next run knows that it is dead; without one the others would see that in time.
	other.kill()
	other.start()
	paged("node lost")
	for _, text := range n.pages() {
		if id, _, _ := strings.Cut(text, " "); id[0] >= '0' && id[0] <= '9' && id != fmt.Sprint(work) {
			t.Errorf("the page of a page: %q", text)
		}
	}
}

// A daemon that is killed again and again tells of each execution's end, and of each once.
func TestEndsAreToldOnceWhateverDies(t *testing.T) {
	t.Parallel()
	y := newYard(t, newsPack)
	n := y.node().start()
	const rounds, each = 3, 25
	for range rounds {
		batch := make([]api.NewExecution, each)
		for i := range batch {
			batch[i] = api.NewExecution{Action: "news.work"}
		}
		_, err := n.client.ExecuteBatch(context.WithoutCancel(t.Context()), batch)
		y.check(err)
		n.until("some have ended", func() bool {
			return y.query("SELECT count(*) > 0 FROM event WHERE trigger_ref = 'core.execution_finished'")[0] == "true"
		})
		n.kill()
		n.start()
	}
	n.until("all have ended, and are told", func() bool {
		return y.query(`SELECT (SELECT count(*) FROM queue) + (SELECT count(*) FROM notice)`)[0] == "0"
	})
	// Each end is one event, and each event of the work one page.
	want := strconv.Itoa(rounds * each)
	for what, sql := range map[string]string{
		"ends of work":   `SELECT count(*) FROM execution WHERE action_ref = 'news.work' AND finished_at IS NOT NULL`,
		"events of work": `SELECT count(DISTINCT payload->>'execution_id') FROM event WHERE payload->>'action' = 'news.work'`,
		"events":         `SELECT count(*) FROM event WHERE payload->>'action' = 'news.work'`,
	} {
		if have := y.query(sql)[0]; have != want {
			t.Errorf("%s %s, want %s", have, what, want)
		}
	}
	if twice := y.query(`SELECT event_id, count(*) FROM execution WHERE rule_ref = 'news.execution' GROUP BY event_id HAVING count(*) > 1`); len(twice) > 0 {
		t.Errorf("pages for one event: %q", twice)
	}
	if left := y.query(`SELECT count(*) FROM execution WHERE rule_ref = 'news.execution'`)[0]; left != want {
		t.Errorf("%s pages, want %s", left, want)
	}
}

// A rule that feeds itself ends, and the daemon says which.
func TestARuleThatFeedsItselfIsStopped(t *testing.T) {
	t.Parallel()
	y := newYard(t, newsPack)
	y.write("news/rules/execution.yaml", "trigger: core.execution_finished\naction: page\n")
	n := y.node("exec.chain_limit = 3").start()
	n.must("run", "news.work")
	n.until("the chain has ended", func() bool { return n.metrics()[`attune_chains_stopped_total{rule="news.execution"}`] == 1 })
	depths := y.query("SELECT depth FROM execution WHERE rule_ref = 'news.execution' ORDER BY id")
	if want := []string{"1", "2"}; !slices.Equal(depths, want) {
		t.Errorf("executions of depth %q, want %q", depths, want)
	}
	n.until("the log says which rule was stopped", func() bool { // it does after it was counted
		log := n.log.String()
		return strings.Contains(log, `"rule":"news.execution"`) && strings.Contains(log, "exec.chain_limit")
	})
	verdicts := y.query("SELECT error FROM enforcement WHERE rule_ref = 'news.execution' AND status = 'skipped'")
	if len(verdicts) != 1 || !strings.Contains(verdicts[0], "a chain of 3 executions") {
		t.Errorf("enforcements say %q", verdicts)
	}
}
