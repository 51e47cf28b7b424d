package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// execCount is how many scripts a round runs: some two seconds.
	execCount = 1500

	// script is what they all run. It prints, because actions do.
	script = "#!/bin/bash\necho hello\n"
)

// helloPack has one action that runs the script.
func helloPack() map[string]string {
	return map[string]string{
		"p/pack.yaml":          "ref: p\nlabel: P\nversion: 1.0.0\n",
		"p/actions/hello.yaml": "name: hello\nrunner_type: shell\nentry_point: hello.sh\n",
		"p/actions/hello.sh":   script,
	}
}

func execBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "exec-cold", Unit: "executions/s", Goal: 0.85,
			What: "bash executions through a daemon, every result committed, against xargs -P2 with the same script",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				ours, d, err := throughDaemon(ctx, lab, "")
				if err != nil {
					return nil, nil, err
				}
				return ours, xargs(lab.log, filepath.Join(d.Dir, "packs", "p", "actions", "hello.sh")), nil
			},
		},
		{
			Name: "exec-river", Unit: "executions/s", Goal: 1.2,
			What: "bash executions through a daemon against River, tuned, with as many workers",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				const workers = 4
				ours, d, err := throughDaemon(ctx, lab, fmt.Sprintf("[exec]\nworkers = %d\n", workers))
				if err != nil {
					return nil, nil, err
				}
				baseline, err = riverExec(ctx, lab, filepath.Join(d.Dir, "packs", "p", "actions", "hello.sh"), workers)
				return ours, baseline, err
			},
		},
	}
}

// throughDaemon queues executions in a daemon's database, and counts from the first row that is queued
// to the last result that is committed.
func throughDaemon(ctx context.Context, lab *Lab, config string) (Side, *Daemon, error) {
	d, err := lab.Daemon(ctx, helloPack(), config)
	if err != nil {
		return nil, nil, err
	}
	conn, err := lab.Connect(ctx, d.URL)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (float64, error) {
		before, begun := cpu(d.PID, lab.postmaster), time.Now()
		ids, err := enqueue(ctx, d.Store, "p.hello", execCount)
		if err != nil {
			return 0, err
		}
		if err := awaitEmpty(ctx, conn, ids[len(ids)-1]); err != nil {
			return 0, err
		}
		took := time.Since(begun)
		fmt.Fprintln(lab.log, cpu(d.PID, lab.postmaster).sub(before).per(execCount, "execution"))
		return execCount / took.Seconds(), checkSucceeded(ctx, conn, ids)
	}, d, nil
}

// enqueue queues n executions of one action, and gives their ids.
func enqueue(ctx context.Context, s *store.Store, action string, n int) ([]int64, error) {
	const batch = 1000
	var ids []int64
	for n > 0 {
		list := make([]store.NewExecution, min(n, batch))
		for i := range list {
			list[i] = store.NewExecution{Action: action, Parameters: json.RawMessage("{}"), RequestedBy: "bench"}
		}
		some, err := s.Enqueue(ctx, list)
		if err != nil {
			return nil, err
		}
		ids = append(ids, some...)
		n -= len(list)
	}
	return ids, nil
}

// awaitEmpty waits until nothing waits or runs. The last is looked for by its number until it is gone, as looking for
// any reads past all that have gone before it.
func awaitEmpty(ctx context.Context, conn *pgx.Conn, last int64) error {
	return Until(ctx, "the queue is empty", func(ctx context.Context) (bool, error) {
		var some bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM attune.queue WHERE execution_id = $1)", last).Scan(&some)
		if err == nil && !some {
			err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM attune.queue)").Scan(&some)
		}
		return !some, err
	})
}

// checkSucceeded makes sure that what was counted was done.
func checkSucceeded(ctx context.Context, conn *pgx.Conn, ids []int64) error {
	var n int
	err := conn.QueryRow(ctx, "SELECT count(*) FROM attune.execution WHERE id = ANY ($1) AND status = 'succeeded'", ids).Scan(&n)
	if err == nil && n != len(ids) {
		err = fmt.Errorf("%d of %d executions succeeded", n, len(ids))
	}
	return err
}

// xargs runs the script without anybody taking notes.
func xargs(log io.Writer, path string) Side {
	return func(ctx context.Context) (float64, error) {
		var numbers strings.Builder
		for i := range execCount {
			fmt.Fprintln(&numbers, i)
		}
		cmd := exec.CommandContext(ctx, "xargs", "-P2", "-I{}", "/bin/bash", path)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(numbers.String())
		begun := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("cannot run xargs: %v", err)
		}
		took := time.Since(begun)
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // with all that it has waited for
		fmt.Fprintf(log, "CPU per execution: xargs and its children %d µs\n", used.Microseconds()/execCount)
		return execCount / took.Seconds(), nil
	}
}
