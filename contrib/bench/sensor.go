package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/sensor"
)

const (
	// sensorCount is how many sensors there are, each with sensorRate events a second.
	sensorCount = 200
	sensorRate  = 10
	// sensorRules is how many rules there are on what they tell.
	sensorRules = 1000
	// sensorSeconds is how long a round looks.
	sensorSeconds = 10

	// sensorRoom is what a sensor may take of the daemon's own memory, in KiB.
	sensorRoom = 200

	// health is how long a program has to run before supervisor believes that it does, and some more.
	health = 1500 * time.Millisecond
)

func sensorBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "restart", Unit: "ms", Goal: 0.1, AtMost: true,
			What:    "a sensor that is killed for the first time, until another process of it runs, against a program of supervisor's",
			Prepare: restartSides,
		},
		{
			Name: "sensors", Unit: "s/s", Goal: 1, AtMost: true,
			What: "processor time of daemon and PostgreSQL with 200 sensors at 10 events a second each and 1,000 rules, against one core",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				ours, err = newSensorLoad(ctx, lab)
				return ours, func(context.Context) (float64, error) { return 1, nil }, err
			},
		},
		{
			Name: "sensor-memory", Unit: "KiB", Goal: 1, AtMost: true,
			What:    "private memory of a daemon with 200 sensors that each print an event a second, less that of one with none, for each, against 200 KiB",
			Prepare: sensorMemory,
		},
	}
}

// pidScript tells its pid by a named pipe whenever it is started.
const pidScript = "#!/bin/bash\necho $$ > %q\nexec sleep 3600\n"

// respawn is a process that somebody starts again.
type respawn struct {
	started <-chan int // pids
	// forget has somebody forget that it failed, by a restart in order; nil: nobody remembers.
	forget func(ctx context.Context) error
	pid    int // 0: it is to be started
}

// newRespawn makes a script that tells of its starts.
func newRespawn(lab *Lab, dir string) (r *respawn, script string, err error) {
	name := filepath.Join(dir, "pipe")
	if err := mkfifo(name); err != nil {
		return nil, "", err
	}
	pipe, err := os.OpenFile(name, os.O_RDWR, 0) // so it never ends
	if err != nil {
		return nil, "", err
	}
	lab.Defer(func() { pipe.Close() })
	pids := make(chan int, 100)
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			if pid, err := strconv.Atoi(lines.Text()); err == nil {
				pids <- pid
			}
		}
	}()
	return &respawn{started: pids}, fmt.Sprintf(pidScript, name), nil
}

// next waits for a start.
func (r *respawn) next(ctx context.Context) (err error) {
	select {
	case r.pid = <-r.started:
		return nil
	case <-time.After(patience):
		return errors.New("nothing was started")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// side kills the process and takes the time until the next has been started.
func (r *respawn) side(ctx context.Context) (float64, error) {
	if r.pid == 0 {
		if err := r.next(ctx); err != nil {
			return 0, err
		}
	}
	<-time.After(health)
	begun := time.Now()
	if err := syscall.Kill(r.pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	err := r.next(ctx)
	took := time.Since(begun)
	if err == nil && r.forget != nil {
		r.pid = 0
		err = r.forget(ctx)
	}
	return milliseconds(took), err
}

func restartSides(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
	dir, err := lab.Folder()
	if err != nil {
		return nil, nil, err
	}
	ourSensor, script, err := newRespawn(lab, dir)
	if err != nil {
		return nil, nil, err
	}
	d, err := lab.Daemon(ctx, map[string]string{
		"p/pack.yaml":       "version: 1.0.0\n",
		"p/triggers/t.yaml": "label: T\n",
		"p/sensors/s.yaml":  "trigger_types: [t]\n",
		"p/sensors/s.sh":    script,
	}, "")
	if err != nil {
		return nil, nil, err
	}
	ourSensor.forget = func(ctx context.Context) error {
		_, err := d.Client.RestartSensor(ctx, "p.s")
		return err
	}
	program, err := supervised(ctx, lab)
	if err != nil {
		return nil, nil, err
	}
	return ourSensor.side, program.side, nil
}

// supervised runs a program under supervisor, with what it is shipped with.
func supervised(ctx context.Context, lab *Lab) (*respawn, error) {
	binary, err := exec.LookPath("supervisord")
	if err != nil {
		return nil, errors.New("there is no supervisord; install the package supervisor")
	}
	dir, err := lab.Folder()
	if err != nil {
		return nil, err
	}
	program, script, err := newRespawn(lab, dir)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "program.sh"), []byte(script), 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "supervisord.conf")
	text := fmt.Sprintf("[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=%s\nchildlogdir=%s\n"+
		"[program:p]\ncommand=/bin/bash %s\nautorestart=true\n", filepath.Join(dir, "pid"), dir, filepath.Join(dir, "program.sh"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "-c", config)
	cmd.Stdout, cmd.Stderr = lab.log, lab.log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lab.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it was told to end
	})
	return program, nil
}

// chatter is a sensor that prints an event each so many seconds, and starts no process for it.
func chatter(n int, every string) map[string]string {
	return map[string]string{
		fmt.Sprintf("p/sensors/s%d.yaml", n): "trigger_types: [t]\n",
		fmt.Sprintf("p/sensors/s%d.sh", n): fmt.Sprintf(`#!/bin/bash
exec 3<> <(:)
while :; do
	printf '{"payload": {"host": "h%d", "load": %%d}}\n' $((RANDOM %% 10))
	read -rt %s -u 3
done
`, n, every),
	}
}

func chatterPack(sensors int, every string) map[string]string {
	files := map[string]string{
		"p/pack.yaml":       "version: 1.0.0\n",
		"p/triggers/t.yaml": "payload_schema:\n  host: {type: string, required: true}\n  load: {type: number}\n",
		"p/actions/a.yaml":  "parameters: {host: {type: string}}\n",
		"p/actions/a.sh":    "#!/bin/bash\n",
	}
	for n := range sensors {
		maps.Copy(files, chatter(n, every))
	}
	return files
}

// newSensorLoad gives the processor time that a second takes. Each rule is on one host, and none holds:
// what an execution takes is another figure.
func newSensorLoad(ctx context.Context, lab *Lab) (Side, error) {
	files := chatterPack(sensorCount, fmt.Sprint(1.0/sensorRate))
	for n := range sensorRules {
		files[fmt.Sprintf("p/rules/r%d.yaml", n)] = fmt.Sprintf(`trigger: t
when: event.payload.host == "h%d" && event.payload.load > %d
action: {ref: a, parameters: {host: "{{ event.payload.host }}"}}
`, n%sensorCount, 90+n/sensorCount)
	}
	d, err := lab.Daemon(ctx, files, "")
	if err != nil {
		return nil, err
	}
	conn, err := lab.Connect(ctx, d.URL)
	if err != nil {
		return nil, err
	}
	drawn := func(ctx context.Context) (events float64, err error) {
		err = conn.QueryRow(ctx, "SELECT last_value FROM attune.event_id").Scan(&events)
		return events, err
	}
	if err := d.running(ctx, sensorCount); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		first, err := drawn(ctx)
		if err != nil {
			return 0, err
		}
		before, begun := cpu(d.PID, lab.postmaster), time.Now()
		<-time.After(sensorSeconds * time.Second)
		used, took := cpu(d.PID, lab.postmaster).sub(before), time.Since(begun)
		last, err := drawn(ctx)
		if err != nil {
			return 0, err
		}
		rate := (last - first) / took.Seconds()
		fmt.Fprintf(lab.log, "sensors: %.0f events/s, %s\n", rate, used.per(max(int(last-first), 1), "event"))
		// On a machine that others load the sensors may not get to print as often as they want; what they
		// print is to cost no more for it.
		return (used.daemon + used.postgres).Seconds() / took.Seconds() * sensorCount * sensorRate / rate, nil
	}, nil
}

// running waits for so many sensors to run.
func (d *Daemon) running(ctx context.Context, sensors int) error {
	return Until(ctx, "all sensors run", func(ctx context.Context) (bool, error) {
		list, err := d.Client.Sensors(ctx, api.ComponentFilter{State: string(sensor.StateRunning)})
		return len(list) >= sensors, err
	})
}

func sensorMemory(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
	some, err := lab.Daemon(ctx, chatterPack(sensorCount, "1"), "")
	if err != nil {
		return nil, nil, err
	}
	none, err := lab.Daemon(ctx, chatterPack(0, "1"), "")
	if err != nil {
		return nil, nil, err
	}
	if err := some.running(ctx, sensorCount); err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		<-time.After(settle)
		with, err := some.private()
		if err != nil {
			return 0, err
		}
		without, err := none.private()
		return (with - without) / sensorCount, err
	}
	return ours, func(context.Context) (float64, error) { return sensorRoom, nil }, nil
}

// private is the memory that the daemon shares with nobody, in KiB.
func (d *Daemon) private() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", d.PID))
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && strings.HasPrefix(fields[0], "Private_") {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return 0, err
			}
			sum += kib
		}
	}
	return sum, nil
}
