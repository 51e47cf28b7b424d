package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

const (
	// eventCount is what COPY needs to be at its best, a few times over: so that it is the flow that counts, and not
	// its beginning and end.
	eventCount = 100_000
	// eventPayload is the size of a payload, in bytes.
	eventPayload = 190
)

func eventBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "events", Unit: "events/s", Goal: 0.6,
			What: "lines of a sensor until they are events, against a child's lines by one COPY into a plain table",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				return eventSides(ctx, lab, nil)
			},
		},
		{
			Name: "events-match", Unit: "events/s", Goal: 0.3,
			What: "the same with a rule that matches each: with enforcements and queued executions",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				return eventSides(ctx, lab, map[string]string{
					"p/rules/r.yaml": "trigger: t\nwhen: event.payload.n >= 0\naction: {ref: hold, parameters: {n: '{{ event.payload.n }}'}}\n",
				})
			},
		},
	}
}

// eventLines is the text that both sides are fed with.
func eventLines() string {
	var b strings.Builder
	for n := range eventCount {
		payload := fmt.Sprintf(`{"n": %d, "text": "`, n)
		fmt.Fprintf(&b, `{"trigger": "p.t", "payload": %s%s"}}`+"\n", payload, strings.Repeat("x", eventPayload-len(payload)-2))
	}
	return b.String()
}

// eventSides makes a daemon whose sensor prints what is written to a pipe, and a table to copy into.
func eventSides(ctx context.Context, lab *Lab, rules map[string]string) (ours, baseline Side, err error) {
	folder, err := lab.Folder()
	if err != nil {
		return nil, nil, err
	}
	lines := filepath.Join(folder, "lines")
	if err := os.WriteFile(lines, []byte(eventLines()), 0o644); err != nil {
		return nil, nil, err
	}
	fifo := filepath.Join(folder, "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		return nil, nil, err
	}
	files := map[string]string{
		"p/pack.yaml":       "version: 1.0.0\n",
		"p/triggers/t.yaml": "label: T\n",
		"p/sensors/s.yaml":  "trigger_types: [t]\n",
		"p/sensors/s.sh":    fmt.Sprintf("#!/bin/bash\nwhile :; do cat %q; done\n", fifo),
		// It holds the only worker, so that what is queued stays there.
		"p/actions/hold.yaml": "parameters: {n: {type: integer}}\n",
		"p/actions/hold.sh":   "#!/bin/bash\nexec sleep 3600\n",
	}
	maps.Copy(files, rules)
	d, err := lab.Daemon(ctx, files, "[exec]\nworkers = 1\nstop_grace = \"1s\"\ndrain = \"1s\"\n")
	if err != nil {
		return nil, nil, err
	}
	conn, err := lab.Connect(ctx, d.URL)
	if err != nil {
		return nil, nil, err
	}
	e := &eventFlow{conn: conn, lines: lines, fifo: fifo, log: lab.log, cpu: func() usage { return cpu(d.PID, lab.postmaster) }}
	if len(rules) > 0 {
		e.executions = eventCount
	}
	other, err := lab.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	plain, err := lab.Connect(ctx, other)
	if err != nil {
		return nil, nil, err
	}
	if _, err := plain.Exec(ctx, `CREATE TABLE copied (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now(),
		trigger_ref text NOT NULL, payload jsonb NOT NULL)`); err != nil {
		return nil, nil, err
	}
	return e.side, func(ctx context.Context) (float64, error) { return copySide(ctx, plain, lines) }, nil
}

// eventFlow is a daemon that is fed through its sensor.
type eventFlow struct {
	conn        *pgx.Conn // of the daemon's database
	lines, fifo string
	executions  int64 // that each round leads to
	log         io.Writer
	cpu         func() usage
}

func (e *eventFlow) side(ctx context.Context) (float64, error) {
	// What earlier rounds have queued is taken away, as workers would.
	if _, err := e.conn.Exec(ctx, "DELETE FROM attune.queue WHERE token IS NULL"); err != nil {
		return 0, err
	}
	if _, err := e.conn.Exec(ctx, "VACUUM attune.queue"); err != nil {
		return 0, err
	}
	var drawn int64 // numbers of events: cheap to ask for, and drawn before the commit
	if err := e.conn.QueryRow(ctx, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attune.event_id").Scan(&drawn); err != nil {
		return 0, err
	}
	begun, used := time.Now(), e.cpu()
	feed := exec.CommandContext(ctx, "dd", "if="+e.lines, "of="+e.fifo, "bs=64k", "status=none")
	if text, err := feed.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cannot feed the sensor: %v\n%s", err, text)
	}
	err := Until(ctx, "all lines are events", func(ctx context.Context) (bool, error) {
		var last int64
		if err := e.conn.QueryRow(ctx, "SELECT last_value FROM attune.event_id").Scan(&last); err != nil || last < drawn+eventCount {
			return false, err
		}
		var events, executions int64
		err := e.conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM attune.event WHERE id > $1),
			(SELECT count(*) FROM attune.queue WHERE event_id > $1)`, drawn).Scan(&events, &executions)
		return events == eventCount && executions == e.executions, err
	})
	took := time.Since(begun)
	fmt.Fprintf(e.log, "events: %s\n", e.cpu().sub(used).per(eventCount, "event"))
	return eventCount / took.Seconds(), err
}

// copySide reads a child's lines, parses each, and stores all of them by one COPY.
func copySide(ctx context.Context, conn *pgx.Conn, lines string) (float64, error) {
	if _, err := conn.Exec(ctx, "TRUNCATE copied"); err != nil {
		return 0, err
	}
	begun := time.Now()
	child := exec.CommandContext(ctx, "cat", lines)
	out, err := child.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := child.Start(); err != nil {
		return 0, err
	}
	scanner := bufio.NewScanner(out)
	stored, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"trigger_ref", "payload"}, pgx.CopyFromFunc(func() ([]any, error) {
		if !scanner.Scan() {
			return nil, scanner.Err()
		}
		var line struct {
			Trigger string          `json:"trigger"`
			Payload json.RawMessage `json:"payload"`
		}
		err := json.Unmarshal(scanner.Bytes(), &line)
		return []any{line.Trigger, line.Payload}, err
	}))
	if err != nil {
		return 0, err
	}
	if stored != eventCount {
		return 0, fmt.Errorf("%d of %d lines were copied", stored, eventCount)
	}
	return eventCount / time.Since(begun).Seconds(), child.Wait()
}
