package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

const (
	// commandCount is how often each command is run in a round.
	commandCount = 10
	// commandMost is what a command may take beside one that does nothing, in milliseconds.
	commandMost = 50
)

func commandBenchmarks() []Benchmark {
	return []Benchmark{{
		Name: "command", Unit: "ms", Goal: 1, AtMost: true,
		What: "the slowest of version, status, pack list, execution list and action show against a running daemon, median, less /bin/true, against 50 ms",
		Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
			d, err := lab.Daemon(ctx, map[string]string{
				"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
				"p/actions/a.yaml": "name: a\nrunner_type: shell\nentry_point: a.sh\n",
				"p/actions/a.sh":   "echo a\n",
			}, "")
			if err != nil {
				return nil, nil, err
			}
			for range 20 {
				if _, err := d.Attune(ctx, "run", "p.a"); err != nil {
					return nil, nil, err
				}
			}
			return func(ctx context.Context) (float64, error) { return slowestCommand(ctx, d) },
				func(context.Context) (float64, error) { return commandMost, nil }, nil
		},
	}}
}

// slowestCommand gives the median of the slowest command, in milliseconds, less that of a program that does
// nothing: what the shell and the kernel take is nobody's to save.
func slowestCommand(ctx context.Context, d *Daemon) (float64, error) {
	nothing, err := medianOf(func() error { return exec.CommandContext(ctx, "/bin/true").Run() })
	if err != nil {
		return 0, err
	}
	slowest := 0.0
	for _, args := range [][]string{{"version"}, {"status"}, {"pack", "list"}, {"execution", "list"}, {"action", "show", "p.a"}} {
		took, err := medianOf(func() error {
			_, err := d.Attune(ctx, args...)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("attune %v: %w", args, err)
		}
		slowest = max(slowest, took-nothing)
	}
	return slowest, nil
}

// medianOf runs something a few times and gives the median, in milliseconds.
func medianOf(run func() error) (float64, error) {
	var took []float64
	for range commandCount {
		began := time.Now()
		if err := run(); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	return median(took), nil
}
