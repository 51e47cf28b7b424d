package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/attune-io/attune/daemon/api"
)

const (
	// pageMost is what a page of a list may take, in milliseconds.
	pageMost = 50
	// metricsMost is what an answer of /metrics may take, in milliseconds, with so many sensors.
	metricsMost    = 10
	metricsSensors = 1000
)

func pageBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "list", Unit: "ms", Goal: 1, AtMost: true,
			What: "the slowest list of 100 of 1,000,000 executions, by any filter, median, against 50 ms",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				d, err := lab.Daemon(ctx, helloPack(), "")
				if err != nil {
					return nil, nil, err
				}
				if err := fillLists(ctx, lab, d); err != nil {
					return nil, nil, err
				}
				pages := &pages{client: unixClient(filepath.Join(d.Dir, "s")), log: lab.log}
				return pages.slowest, func(context.Context) (float64, error) { return pageMost, nil }, nil
			},
		},
		{
			Name: "metrics", Unit: "ms", Goal: 1, AtMost: true,
			What: "an answer of /metrics with 1,000 sensors, median, against 10 ms",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				files := map[string]string{"p/pack.yaml": "version: 1.0.0\n", "p/triggers/t.yaml": "label: T\n"}
				for n := range metricsSensors {
					files[fmt.Sprintf("p/sensors/s%d.yaml", n)] = "trigger_types: [t]\nentry_point: s.sh\n"
				}
				files["p/sensors/s.sh"] = "#!/bin/bash\nexec sleep 3600\n"
				d, err := lab.Daemon(ctx, files, "")
				if err != nil {
					return nil, nil, err
				}
				if err := allRun(ctx, d); err != nil {
					return nil, nil, err
				}
				pages := &pages{client: unixClient(filepath.Join(d.Dir, "s")), log: lab.log}
				return func(ctx context.Context) (float64, error) { return pages.median(ctx, "/metrics") },
					func(context.Context) (float64, error) { return metricsMost, nil }, nil
			},
		},
	}
}

// fillLists puts a million executions that have ended into the history: of a hundred actions and rules, and few
// of them failed.
func fillLists(ctx context.Context, lab *Lab, d *Daemon) error {
	conn, err := lab.Connect(ctx, d.URL)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `
		INSERT INTO attune.execution (
			action_ref, pack_ref, rule_ref, event_id, status, attempt, node, started_at, finished_at, exit_code, parameters
		)
		SELECT
			'p.hello' || n % 100, 'p' || n % 10, 'p.rule' || n % 100, n, CASE WHEN n = 7 THEN 'failed' ELSE 'succeeded' END,
			1, 'bench', now(), now(), 0, '{}'
		FROM generate_series(1, $1::integer) AS n`, historyCount); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "VACUUM ANALYZE")
	return err
}

// allRun waits until every sensor runs.
func allRun(ctx context.Context, d *Daemon) error {
	return Until(ctx, "all sensors run", func(ctx context.Context) (bool, error) {
		sensors, err := d.Client.Sensors(ctx, api.ComponentFilter{State: "running"})
		return len(sensors) >= metricsSensors, err
	})
}

// pages asks a daemon.
type pages struct {
	client *http.Client
	log    io.Writer
}

func (p *pages) slowest(ctx context.Context) (float64, error) {
	slowest := 0.0
	for _, query := range []string{
		"", "?before=500000", "?action=p.hello7", "?rule=p.rule7", "?pack=p7", "?status=failed", "?status=failed&pack=p7",
		"?action=p.none", "?pack=none", "?rule=none", "?event=7", "?since=1h", "?since=1h&status=failed&action=p.hello7",
	} {
		took, err := p.median(ctx, "/api/v1/executions"+query)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(p.log, "list%s: %.1f ms\n", query, took)
		slowest = max(slowest, took)
	}
	return slowest, nil
}

// median gives that of a few answers, in milliseconds.
func (p *pages) median(ctx context.Context, path string) (float64, error) {
	return medianOf(func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://attune"+path, nil)
		if err != nil {
			return err
		}
		response, err := p.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, response.Status)
		}
		_, err = io.Copy(io.Discard, response.Body)
		return err
	})
}
