package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/attune-io/attune/exec/child"
)

// pythonCount is how many Python scripts a round runs, one after the other: some two seconds when cold.
const pythonCount = 60

func warmBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "exec-warm", Unit: "executions/s", Goal: 2,
			What: "bash executions from a warm parent through a daemon, every result committed, against xargs -P2 with the same script",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				ours, d, err := throughDaemon(ctx, lab, "[exec]\nwarm = true\n")
				if err != nil {
					return nil, nil, err
				}
				return ours, xargs(lab.log, filepath.Join(d.Dir, "packs", "p", "actions", "hello.sh")), nil
			},
		},
		pythonWarm("python-warm-json", 4, "import json\nprint(json.dumps({}))\n"),
		pythonWarm("python-warm-urllib", 10, "import json, urllib.request\nprint(json.dumps({}))\n"),
	}
}

// pythonWarm sets a Python script from a warm parent beside the same by os/exec.
func pythonWarm(name string, goal float64, text string) Benchmark {
	return Benchmark{
		Name: name, Unit: "runs/s", Goal: goal,
		What: "a Python script from a warm parent, start to end, one after the other, against a new python3 for each",
		Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
			dir, err := lab.Folder()
			if err != nil {
				return nil, nil, err
			}
			file := filepath.Join(dir, "x.py")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				return nil, nil, err
			}
			ours, python, err := fromParent(ctx, lab, dir, file)
			if err != nil {
				return nil, nil, err
			}
			return ours, func(ctx context.Context) (float64, error) {
				return perSecond(func() error {
					cmd := exec.CommandContext(ctx, python, file)
					cmd.Env = child.NewEnv("/", dir).List()
					_, err := cmd.Output()
					return err
				})
			}, nil
		},
	}
}

// perSecond runs something again and again.
func perSecond(run func() error) (float64, error) {
	begun := time.Now()
	for range pythonCount {
		if err := run(); err != nil {
			return 0, err
		}
	}
	return pythonCount / time.Since(begun).Seconds(), nil
}

// fromParent runs a script from a warm parent, which is there when it returns.
func fromParent(ctx context.Context, lab *Lab, dir, file string) (side Side, python string, err error) {
	logger := slog.New(slog.NewTextHandler(lab.log, nil))
	runner, err := child.NewRunner(ctx, child.Options{Binary: os.Args[0], StateDir: filepath.Join(dir, "run"), Logger: logger})
	if err != nil {
		return nil, "", err
	}
	lab.Defer(func() { report(runner.Close()) })
	found, err := child.ProbeInterpreters(ctx, runner, "")
	if err != nil {
		return nil, "", err
	}
	in, err := found.Find("python", "", nil)
	if err != nil {
		return nil, "", err
	}
	var warm, cold atomic.Int64
	w, err := child.NewWarm(child.WarmOptions{
		Runner: runner, Dir: filepath.Join(dir, "warm"), Logger: logger,
		Started: func(_, outcome string) {
			if outcome == child.WarmStarted {
				warm.Add(1)
			} else {
				cold.Add(1)
			}
		},
	})
	if err != nil {
		return nil, "", err
	}
	one := func() error {
		out := child.NewCapture(1<<10, nil)
		p, err := w.Start(ctx, child.Spec{
			Name: "script", Path: in.Path, Args: []string{file}, Dir: dir, Env: child.NewEnv("/", dir).List(), Warm: child.WarmPython,
			Stdin: strings.NewReader("{}\n"), Stdout: out, Stderr: child.NewCapture(1<<10, nil),
		})
		if err != nil {
			return err
		}
		if exit := p.Wait(); exit.Code != 0 {
			return fmt.Errorf("the script ended with %v", exit)
		}
		return nil
	}
	for warm.Load() < 10 {
		if err := one(); err != nil {
			return nil, "", err
		}
	}
	return func(context.Context) (float64, error) {
		before := cold.Load()
		rate, err := perSecond(one)
		if err == nil && cold.Load() > before {
			err = fmt.Errorf("%d of the starts were cold", cold.Load()-before)
		}
		return rate, err
	}, in.Path, nil
}
