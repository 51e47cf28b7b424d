package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// panel is one graph of the dashboard: a title, a unit of Grafana's, and queries with what to call them.
type panel struct {
	title   string
	unit    string
	queries [][2]string // expression, legend
}

// row is a heading of the dashboard with the panels below it.
type row struct {
	title  string
	panels []panel
}

// dashboard is what the shipped one shows, in the order in which one looks at three in the morning.
func dashboard() []row {
	rate := func(metric, by string) string {
		return "sum by (" + by + ") (rate(" + metric + `{instance=~"$instance"}[$__rate_interval]))`
	}
	quantile := func(q, metric string) string {
		return "histogram_quantile(" + q + ", sum by (le) (rate(" + metric + `_bucket{instance=~"$instance"}[$__rate_interval])))`
	}
	quantiles := func(metric string) [][2]string {
		return [][2]string{{quantile("0.5", metric), "p50"}, {quantile("0.99", metric), "p99"}}
	}
	all := func(metric string) string { return metric + `{instance=~"$instance"}` }
	return []row{
		{"Is it well?", []panel{
			{"Up", "short", [][2]string{{`up{job="attune"}`, "{{instance}}"}}},
			{"Database answers", "short", [][2]string{{all("attune_db_up"), "{{instance}}"}}},
			{"Leader", "short", [][2]string{{all("attune_leader"), "{{instance}}"}}},
			{"Paused", "short", [][2]string{{"max(" + all("attune_paused") + ")", "paused"}}},
			{"Version", "short", [][2]string{{all("attune_build_info"), "{{instance}} {{version}}"}}},
		}},
		{"Executions", []panel{
			{"Ended", "ops", [][2]string{{rate("attune_executions_total", "status"), "{{status}}"}}},
			{"Failed, by action", "ops", [][2]string{{`sum by (action) (rate(attune_executions_total{instance=~"$instance", status=~"failed|timed_out|lost"}[$__rate_interval])) > 0`, "{{action}}"}}},
			{"Queue", "short", [][2]string{{"max by (status) (" + all("attune_queue_depth") + ")", "{{status}}"}}},
			{"The oldest that is due", "s", [][2]string{{"max(" + all("attune_queue_oldest_seconds") + ")", "waits"}}},
			{"From due to started", "s", quantiles("attune_execution_wait_seconds")},
			{"Time of processes", "s", quantiles("attune_execution_duration_seconds")},
			{"Workers", "short", [][2]string{{"sum by (state) (" + all("attune_workers") + ")", "{{state}}"}}},
			{"Short of", "short", [][2]string{{rate("attune_start_shortages_total", "shortage"), "{{shortage}}"}}},
		}},
		{"Events and rules", []panel{
			{"Events", "ops", [][2]string{{rate("attune_events_total", "trigger"), "{{trigger}}"}}},
			{"Refused and repeated", "ops", [][2]string{{rate("attune_events_rejected_total", "reason"), "{{reason}}"}, {rate("attune_events_duplicate_total", "trigger"), "repeated {{trigger}}"}}},
			{"From taken to stored", "s", quantiles("attune_event_latency_seconds")},
			{"Lateness of timers", "s", quantiles("attune_timer_delay_seconds")},
			{"Enforcements", "ops", [][2]string{{rate("attune_enforcements_total", "status"), "{{status}}"}}},
			{"Open breakers", "short", [][2]string{{"max by (rule) (" + all("attune_rule_breaker_open") + ") > 0", "{{rule}}"}}},
			{"Webhooks", "ops", [][2]string{{rate("attune_webhook_requests_total", "outcome"), "{{outcome}}"}}},
		}},
		{"Sensors", []panel{
			{"State", "short", [][2]string{{"sum by (state) (" + all("attune_sensors") + ")", "{{state}}"}}},
			{"Restarts", "short", [][2]string{{`sum by (sensor, reason) (increase(attune_sensor_restarts_total{instance=~"$instance"}[$__rate_interval])) > 0`, "{{sensor}} {{reason}}"}}},
			{"Lines", "ops", [][2]string{{rate("attune_sensor_lines_total", "outcome"), "{{outcome}}"}}},
			{"Blocked", "s", [][2]string{{rate("attune_sensor_blocked_seconds_total", "sensor"), "{{sensor}}"}}},
		}},
		{"Packs", []panel{
			{"Packs", "short", [][2]string{{"max by (state) (" + all("attune_packs") + ")", "{{state}}"}}},
			{"Errors", "short", [][2]string{{"max by (pack) (" + all("attune_pack_errors") + ") > 0", "{{pack}}"}}},
			{"Pinned and drifting", "short", [][2]string{{"max by (pack) (" + all("attune_pack_pinned") + ") > 0", "pinned {{pack}}"}, {"max by (pack) (" + all("attune_pack_drift_steps") + ") > 0", "drift {{pack}}"}}},
			{"From edit to in force", "s", quantiles("attune_reconcile_lag_seconds")},
			{"Passes", "ops", [][2]string{{rate("attune_reconcile_total", "outcome"), "{{outcome}}"}}},
		}},
		{"Below", []panel{
			{"Database: reconnects and failures", "short", [][2]string{{rate("attune_db_reconnects_total", "instance"), "reconnects {{instance}}"}, {rate("attune_db_failures_total", "reason"), "{{reason}}"}}},
			{"Oldest transaction", "s", [][2]string{{"max(" + all("attune_db_oldest_xact_seconds") + ")", "age"}}},
			{"Fenced", "short", [][2]string{{rate("attune_fenced_writes_total", "instance"), "writes {{instance}}"}, {rate("attune_self_fence_total", "instance"), "nodes {{instance}}"}}},
			{"Memory of the daemon", "bytes", [][2]string{{`process_resident_memory_bytes{job="attune", instance=~"$instance"}`, "{{instance}}"}}},
			{"Processor of the daemon", "short", [][2]string{{`rate(process_cpu_seconds_total{job="attune", instance=~"$instance"}[$__rate_interval])`, "{{instance}}"}}},
		}},
	}
}

// drawDashboard gives the dashboard as Grafana imports it.
func drawDashboard(rows []row) any {
	const width, height, perLine = 6, 7, 4
	source := map[string]any{"type": "prometheus", "uid": "${datasource}"}
	var panels []any
	id, y := 0, 0
	for _, r := range rows {
		id++
		panels = append(panels, map[string]any{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []any{},
			"gridPos": map[string]int{"x": 0, "y": y, "w": perLine * width, "h": 1},
		})
		y++
		for i, p := range r.panels {
			id++
			var targets []any
			for j, q := range p.queries {
				targets = append(targets, map[string]any{
					"refId": string(rune('A' + j)), "expr": q[0], "legendFormat": q[1], "datasource": source, "editorMode": "code", "range": true,
				})
			}
			panels = append(panels, map[string]any{
				"id": id, "type": "timeseries", "title": p.title, "datasource": source, "targets": targets,
				"gridPos":     map[string]int{"x": i % perLine * width, "y": y + i/perLine*height, "w": width, "h": height},
				"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.unit, "min": 0}, "overrides": []any{}},
				"options":     map[string]any{"legend": map[string]any{"displayMode": "list", "placement": "bottom"}, "tooltip": map[string]any{"mode": "multi", "sort": "desc"}},
			})
		}
		y += (len(r.panels) + perLine - 1) / perLine * height
	}
	return map[string]any{
		"uid": "attune", "title": "Attune", "tags": []string{"attune"}, "schemaVersion": 39, "editable": true, "refresh": "30s",
		"time": map[string]string{"from": "now-6h", "to": "now"}, "timezone": "browser", "panels": panels,
		"templating": map[string]any{"list": []any{
			map[string]any{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
			map[string]any{
				"name": "instance", "label": "Node", "type": "query", "datasource": source, "query": `label_values(attune_build_info, instance)`,
				"refresh": 2, "multi": true, "includeAll": true, "allValue": ".*", "current": map[string]any{"text": "All", "value": "$__all"},
			},
		}},
	}
}

// TestDashboard holds that the shipped dashboard is what the code above draws.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(drawDashboard(dashboard())); err != nil {
		t.Fatal(err)
	}
	const path = "../../contrib/grafana/attune.json"
	if os.Getenv("UPDATE_DASHBOARD") != "" {
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shipped, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(shipped, text.Bytes()) {
		t.Errorf("%s is not what the code draws (%v): UPDATE_DASHBOARD=1 go test ./daemon/attune -run Dashboard", path, err)
	}
}

// TestQueriesNameMetrics holds that whatever the dashboard and the rules ask for is a metric of ours, or of the
// process that Prometheus' own client tells of, and that each alert has its paragraph of what to do.
func TestQueriesNameMetrics(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"up": true, "process_resident_memory_bytes": true, "process_cpu_seconds_total": true}
	defined := regexp.MustCompile(`(?:Name:|NewDesc\()\s*"(attune_\w+)"`)
	for _, part := range []string{"daemon", "exec", "reconcile"} {
		err := filepath.WalkDir(filepath.Join("../..", part), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range defined.FindAllStringSubmatch(string(text), -1) {
				known[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	asked := func(where, query string) {
		for _, name := range regexp.MustCompile(`\b(?:attune|process)_\w+`).FindAllString(query, -1) {
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !known[name] && !known[base] {
				t.Errorf("%s asks for %s, which nobody measures", where, name)
			}
		}
	}
	for _, r := range dashboard() {
		for _, p := range r.panels {
			for _, q := range p.queries {
				asked("panel "+p.title, q[0])
			}
		}
	}
	rules, err := os.ReadFile("../../contrib/prometheus/attune.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	asked("a rule", string(rules))
	guide, err := os.ReadFile("../../contrib/prometheus/README.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1)
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, alert := range alerts {
		if !strings.Contains(string(guide), "\n### "+alert[1]+"\n") {
			t.Errorf("README.md says nothing of %s", alert[1])
		}
	}
	if n := strings.Count(string(guide), "\n### "); n != len(alerts) {
		t.Errorf("README.md has %d paragraphs for %d alerts", n, len(alerts))
	}
}
