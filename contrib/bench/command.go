package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon/api"
)

const (
	// commandCount is how often each command is run in a round.
	commandCount = 10
	// commandMost is what a command may take beside one that does nothing, in milliseconds.
	commandMost = 50

	// topMost is what a screen may take of a core, in per cent, as long as a round looks at it.
	topMost    = 2
	topSeconds = 15
	// topExecutions is how many it has to list from the first.
	topExecutions = 40
)

func commandBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "command", Unit: "ms", Goal: 1, AtMost: true,
			What: "the slowest command that reads, of every list, show and log, why, plan and status against a running daemon, median, less /bin/true, against 50 ms",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				d, err := lab.Daemon(ctx, everyKind("exec sleep 3600"), "")
				if err != nil {
					return nil, nil, err
				}
				for range commandCount {
					if err := d.Attune(ctx, "trigger", "fire", "p.t"); err != nil {
						return nil, nil, err
					}
				}
				if err := hasEnded(ctx, d, commandCount); err != nil {
					return nil, nil, err
				}
				return func(ctx context.Context) (float64, error) { return slowestCommand(ctx, d, lab.log) },
					func(context.Context) (float64, error) { return commandMost, nil }, nil
			},
		},
		{
			Name: "top", Unit: "% of a core", Goal: 1, AtMost: true,
			What: "the processor time of `attune top` on a terminal, where executions begin and end each second, against 2 % of a core",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				d, err := lab.Daemon(ctx, everyKind("while sleep 0.2; do echo '{\"payload\": {}}'; done"), "")
				if err != nil {
					return nil, nil, err
				}
				if err := hasEnded(ctx, d, topExecutions); err != nil {
					return nil, nil, err
				}
				screen, err := d.top(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				return screen.side, func(context.Context) (float64, error) { return topMost, nil }, nil
			},
		},
	}
}

// everyKind is a pack with one of each kind, whose sensor does something.
func everyKind(sensor string) map[string]string {
	return map[string]string{
		"p/pack.yaml":       "ref: p\nversion: 1.0.0\n",
		"p/actions/a.yaml":  "name: a\nrunner_type: shell\nentry_point: a.sh\n",
		"p/actions/a.sh":    "echo a\n",
		"p/triggers/t.yaml": "name: t\n",
		"p/sensors/s.yaml":  "name: s\ntrigger_types: [t]\nentry_point: s.sh\n",
		"p/sensors/s.sh":    "#!/bin/bash\n" + sensor + "\n",
		"p/rules/r.yaml":    "name: r\ntrigger: t\naction: a\n",
	}
}

// hasEnded waits until so many executions have ended, of which the first is number 1.
func hasEnded(ctx context.Context, d *Daemon, count int64) error {
	return Until(ctx, fmt.Sprint(count, " executions have ended"), func(ctx context.Context) (bool, error) {
		e, err := d.Client.Execution(ctx, count)
		if api.IsNotFound(err) {
			return false, nil
		}
		return err == nil && e.FinishedAt != nil, err
	})
}

// readingCommands are all that ask a daemon and change nothing. Doctor is none: it tries the machine.
func readingCommands() [][]string {
	return [][]string{
		{"version"},
		{"status"},
		{"pack", "list"},
		{"pack", "show", "p"},
		{"pack", "plan"},
		{"pack", "history", "p"},
		{"action", "list"},
		{"action", "show", "p.a"},
		{"trigger", "list"},
		{"trigger", "show", "p.t"},
		{"sensor", "list"},
		{"sensor", "show", "p.s"},
		{"sensor", "logs", "p.s"},
		{"rule", "list"},
		{"rule", "show", "p.r"},
		{"event", "list"},
		{"event", "show", "1"},
		{"execution", "list"},
		{"execution", "show", "1"},
		{"execution", "logs", "1"},
		{"why", "event", "1"},
		{"why", "execution", "1"},
		{"audit", "list"},
		{"token", "list"},
		{"config", "show"},
		{"__complete", "action", "show", ""}, // what a shell asks at a Tab
	}
}

// slowestCommand gives the median of the slowest command, in milliseconds, less that of a program that does
// nothing: what the shell and the kernel take is nobody's to save.
func slowestCommand(ctx context.Context, d *Daemon, log io.Writer) (float64, error) {
	nothing, err := medianOf(func() error { return exec.CommandContext(ctx, "/bin/true").Run() })
	if err != nil {
		return 0, err
	}
	slowest, worst := 0.0, ""
	for _, args := range readingCommands() {
		took, err := medianOf(func() error { return d.Attune(ctx, args...) })
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(log, "attune %s: %.1f ms\n", strings.Join(args, " "), took-nothing)
		if took-nothing > slowest {
			slowest, worst = took-nothing, strings.Join(args, " ")
		}
	}
	fmt.Fprintf(log, "the slowest is attune %s\n", worst)
	return slowest, nil
}

// screen is an `attune top`.
type screen struct {
	pid   int
	drawn *atomic.Int64 // bytes
}

// top starts one on a terminal of its own, and returns when it has drawn.
func (d *Daemon) top(ctx context.Context, lab *Lab) (*screen, error) {
	ours, theirs, err := openTerminal()
	if err != nil {
		return nil, err
	}
	lab.Defer(func() { ours.Close() })
	defer theirs.Close()
	cmd := exec.Command(d.binary, "top")
	cmd.Dir, cmd.Env = d.Dir, append(slices.Clone(d.env), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	// It stays in this session: what has left it is taken for what a child has left behind, and is killed.
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lab.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := &screen{pid: cmd.Process.Pid, drawn: new(atomic.Int64)}
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := ours.Read(buffer)
			if err != nil {
				return
			}
			s.drawn.Add(int64(n))
		}
	}()
	const aScreen = 500 // bytes, of which what asks the terminal who it is has fewer
	return s, Until(ctx, "top has drawn", func(context.Context) (bool, error) { return s.drawn.Load() > aScreen, nil })
}

// openTerminal makes a pseudo terminal of a usual size.
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	fd := int(ours.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}); err != nil {
		return nil, nil, err
	}
	theirs, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return ours, theirs, err
}

// side gives how much of a core it takes, in per cent. One that has drawn nothing meanwhile has not looked.
func (s *screen) side(ctx context.Context) (float64, error) {
	before, _ := ticks(s.pid)
	drawn, began := s.drawn.Load(), time.Now()
	select {
	case <-time.After(topSeconds * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, _ := ticks(s.pid)
	if s.drawn.Load() == drawn {
		return 0, errors.New("top has drawn nothing")
	}
	return 100 * (after - before).Seconds() / time.Since(began).Seconds(), nil
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
