package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

const (
	// timerCount is how many timers there are, timerBusy how many of them are due each second.
	timerCount = 10_000
	timerBusy  = 20

	// timerSeconds is how long a round looks.
	timerSeconds = 5

	// timerMost is how late a firing may be, in milliseconds.
	timerMost = 20
)

func timerBenchmarks() []Benchmark {
	return []Benchmark{{
		Name: "timer-delay", Unit: "ms", Goal: 1, AtMost: true,
		What: "how late a firing is printed at idle, p99, with 10,000 timers of which 20 are due each second, against 20 ms",
		Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
			t, err := newTimers(ctx, lab)
			if err != nil {
				return nil, nil, err
			}
			return t.delay, func(context.Context) (float64, error) { return timerMost, nil }, nil
		},
	}}
}

// timers is a running timer engine.
type timers struct {
	delays chan time.Duration
	failed chan error
}

func newTimers(ctx context.Context, lab *Lab) (*timers, error) {
	dir, err := lab.Folder()
	if err != nil {
		return nil, err
	}
	type instance struct {
		Trigger    string         `json:"trigger"`
		Instance   string         `json:"instance"`
		Parameters map[string]any `json:"parameters"`
		Since      time.Time      `json:"since"`
	}
	list := make([]instance, timerCount)
	for i := range list {
		parameters := map[string]any{"interval": 3600 + i}
		if i < timerBusy {
			parameters = map[string]any{"interval": 1}
		}
		list[i] = instance{"core.intervaltimer", fmt.Sprintf("core.intervaltimer#%d", i), parameters, time.Now().UTC()}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "triggers.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, lab.Binary, "timer-engine")
	cmd.Env = []string{"ATTUNE_SENSOR_TRIGGERS_FILE=" + file}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lab.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	t := &timers{delays: make(chan time.Duration, timerBusy*timerSeconds*10), failed: make(chan error, 1)}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var event struct {
				Due time.Time `json:"due"`
			}
			late := time.Now()
			if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
				t.failed <- err
				return
			}
			select {
			case t.delays <- late.Sub(event.Due):
			default: // between two rounds
			}
		}
		t.failed <- fmt.Errorf("the timer engine has ended: %v", lines.Err())
	}()
	return t, nil
}

// delay gives the p99 of the next firings.
func (t *timers) delay(ctx context.Context) (float64, error) {
	for len(t.delays) > 0 {
		<-t.delays
	}
	var seen []time.Duration
	for len(seen) < timerBusy*timerSeconds {
		select {
		case d := <-t.delays:
			seen = append(seen, d)
		case err := <-t.failed:
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	slices.Sort(seen)
	return milliseconds(seen[len(seen)*99/100]), nil
}
