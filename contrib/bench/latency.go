package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

const (
	// latencyCount is how many events a round has, latencyPause what lies between them: at idle.
	latencyCount = 60
	latencyPause = 5 * time.Millisecond

	// commitSize is what a small transaction writes ahead.
	commitSize = 8 << 10
)

// pipeSensor prints what is written to a named pipe.
const pipeSensor = `#!/bin/bash
exec cat "$ATTUNE_PACK_CONFIG_PIPE"
`

func latencyBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "latency", Unit: "ms", Goal: 2, AtMost: true,
			What: "an event at idle, from a sensor's line to the committed result of a bash action, p50, against bash and one fdatasync",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				l, err := newLatency(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				return l.toResult, l.bare(func(cmd *exec.Cmd) error { return cmd.Run() }), nil
			},
		},
		{
			Name: "latency-start", Unit: "ms", Goal: 2.5, AtMost: true,
			What: "an event at idle, from a sensor's line to the started process, p50, against a bare start and one fdatasync",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				l, err := newLatency(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				return l.toStart, l.bare(func(cmd *exec.Cmd) error { return cmd.Start() }), nil
			},
		},
	}
}

type latency struct {
	lab     *Lab
	d       *Daemon
	conn    *pgx.Conn // queries
	ends    *pgx.Conn // hears of ends
	pipe    *os.File
	metrics *http.Client
	file    *os.File // for fdatasync
	script  string
}

func newLatency(ctx context.Context, lab *Lab) (*latency, error) {
	dir, err := lab.Folder()
	if err != nil {
		return nil, err
	}
	l := &latency{lab: lab}
	pipe := filepath.Join(dir, "pipe")
	if err := mkfifo(pipe); err != nil {
		return nil, err
	}
	files := helloPack()
	files["p/triggers/asked.yaml"] = "name: asked\npayload_schema:\n  at: {type: string, required: true}\n"
	files["p/sensors/pipe.yaml"] = "name: pipe\ntrigger_types: [p.asked]\n"
	files["p/sensors/pipe.sh"] = pipeSensor
	files["p/rules/hello.yaml"] = "name: hello\ntrigger: {ref: p.asked}\naction: {ref: p.hello}\n"
	if l.d, err = lab.Daemon(ctx, files, fmt.Sprintf("[packs.config.p]\npipe = %q\n", pipe)); err != nil {
		return nil, err
	}
	l.script = filepath.Join(l.d.Dir, "packs", "p", "actions", "hello.sh")
	// Opened for both directions it waits for no reader, and the sensor sees no end between two lines.
	if l.pipe, err = os.OpenFile(pipe, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	lab.Defer(func() { l.pipe.Close() })
	if l.file, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	lab.Defer(func() { l.file.Close() })
	if err := l.file.Truncate(commitSize * 4 * latencyCount); err != nil {
		return nil, err
	}
	if l.conn, err = lab.Connect(ctx, l.d.URL); err != nil {
		return nil, err
	}
	if l.ends, err = lab.Connect(ctx, l.d.URL); err != nil {
		return nil, err
	}
	if _, err := l.ends.Exec(ctx, "LISTEN attune_finished"); err != nil {
		return nil, err
	}
	l.metrics = unixClient(filepath.Join(l.d.Dir, "s"))
	lab.Defer(l.metrics.CloseIdleConnections)
	return l, nil
}

// ask lets one event happen, and gives the moment before, the execution, and the moment when the commit
// of its result was heard of.
func (l *latency) ask(ctx context.Context) (begun time.Time, id int64, ended time.Time, err error) {
	<-time.After(latencyPause)
	begun = time.Now()
	if _, err := fmt.Fprintf(l.pipe, `{"trigger": "p.asked", "payload": {"at": "%d"}}`+"\n", begun.UnixNano()); err != nil {
		return begun, 0, ended, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	notice, err := l.ends.WaitForNotification(ctx)
	if err != nil {
		return begun, 0, ended, fmt.Errorf("no result came: %v", err)
	}
	ended = time.Now()
	id, err = strconv.ParseInt(notice.Payload, 10, 64)
	return begun, id, ended, err
}

func (l *latency) toResult(ctx context.Context) (float64, error) {
	var list []float64
	before := cpu(l.d.PID, l.lab.postmaster)
	for range latencyCount {
		begun, _, ended, err := l.ask(ctx)
		if err != nil {
			return 0, err
		}
		list = append(list, milliseconds(ended.Sub(begun)))
	}
	fmt.Fprintln(l.lab.log, cpu(l.d.PID, l.lab.postmaster).sub(before).per(latencyCount, "event"))
	var atOnce, all int
	err := l.conn.QueryRow(ctx, "SELECT count(*) FILTER (WHERE started_at = created_at), count(*) FROM attune.execution").Scan(&atOnce, &all)
	fmt.Fprintf(l.lab.log, "begun in the transaction of their event so far: %d of %d\n", atOnce, all)
	return median(list), err
}

// toStart takes the moment of the start from the daemon: its histogram counts from when the execution
// was due to when the start of the process returned, and with one start between two looks the sum's
// growth is that one's wait, exactly.
func (l *latency) toStart(ctx context.Context) (float64, error) {
	var list []float64
	before, err := l.waits(ctx)
	if err != nil {
		return 0, err
	}
	for range latencyCount {
		begun, id, _, err := l.ask(ctx)
		if err != nil {
			return 0, err
		}
		after, err := l.waits(ctx)
		if err != nil {
			return 0, err
		}
		var due time.Time
		if err := l.conn.QueryRow(ctx, "SELECT due_at FROM attune.execution_now WHERE id = $1", id).Scan(&due); err != nil {
			return 0, err
		}
		list = append(list, milliseconds(due.Sub(begun))+(after-before)*1000)
		before = after
	}
	return median(list), nil
}

// waits is the sum of all waits, in seconds.
func (l *latency) waits(ctx context.Context) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://attune/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := l.metrics.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	sum, found := 0.0, false
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "attune_execution_wait_seconds_sum "); ok {
			if sum, err = strconv.ParseFloat(text, 64); err != nil {
				return 0, err
			}
			found = true
		}
	}
	if !found {
		return 0, fmt.Errorf("the daemon has no attune_execution_wait_seconds")
	}
	return sum, lines.Err()
}

// bare is what cannot be saved: the process, and one write that is waited for until it is on disk.
func (l *latency) bare(do func(*exec.Cmd) error) Side {
	return func(ctx context.Context) (float64, error) {
		var list []float64
		page := make([]byte, commitSize)
		for i := range latencyCount {
			<-time.After(latencyPause)
			cmd := exec.CommandContext(ctx, "/bin/bash", l.script)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			begun := time.Now()
			if err := do(cmd); err != nil {
				return 0, err
			}
			if _, err := l.file.WriteAt(page, int64(i)*commitSize); err != nil {
				return 0, err
			}
			if err := fdatasync(l.file); err != nil {
				return 0, err
			}
			list = append(list, milliseconds(time.Since(begun)))
			if cmd.ProcessState == nil {
				_ = cmd.Wait()
			}
		}
		return median(list), nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func mkfifo(path string) error { return unix.Mkfifo(path, 0o666) }

func fdatasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}
