package timer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	// defaultSensor is whose events they are when the engine is started by hand.
	defaultSensor = "core.interval_timer_sensor"

	// exitConfig tells the supervisor that another start would not help.
	exitConfig = 78

	// flushWait is how long the end waits for a reader that is slow to take the last lines.
	flushWait = 2 * time.Second
)

// Main is the hidden command `attune timer-engine`: instances from the environment, updates from
// stdin, events to stdout, problems to stderr. It gives the exit code. It ends with ctx, not with
// stdin: a daemon that dies takes its sensors with it by the keeper.
func Main(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	instances, err := firstInstances(getenv)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfig
	}
	sensor := getenv("ATTUNE_SENSOR_REF")
	if sensor == "" {
		sensor = defaultSensor
	}
	engine := New(sensor, stdout)
	report(stderr, engine.Set(instances))
	// Nothing can take this back from a read of stdin; it ends with the process.
	go readUpdates(stdin, stderr, engine)

	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(flushWait):
			err = errors.New("cannot print the last events: nobody reads them")
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func firstInstances(getenv func(string) string) ([]Instance, error) {
	if text := getenv("ATTUNE_SENSOR_TRIGGERS"); text != "" {
		return readInstances([]byte(text))
	}
	file := getenv("ATTUNE_SENSOR_TRIGGERS_FILE")
	if file == "" {
		return nil, errors.New("cannot find trigger instances: this command is started by the daemon, which sets ATTUNE_SENSOR_TRIGGERS or ATTUNE_SENSOR_TRIGGERS_FILE")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read trigger instances: %v", err)
	}
	return readInstances(data)
}

// readUpdates takes what the daemon says on stdin, line by line, until its end.
func readUpdates(stdin io.Reader, stderr io.Writer, engine *Engine) {
	lines := bufio.NewReader(stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			report(stderr, update(line, engine))
		}
		if err != nil {
			return
		}
	}
}

func update(line []byte, engine *Engine) error {
	var m struct {
		Type      string      `json:"type"`
		Instances *[]Instance `json:"instances"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("cannot read a line of stdin: %v", err)
	}
	// Lines of other types may come from a newer daemon.
	if m.Type != "triggers" || m.Instances == nil {
		return nil
	}
	return engine.Set(*m.Instances)
}

// report prints one line for each problem.
func report(stderr io.Writer, err error) {
	if err != nil {
		fmt.Fprintln(stderr, err) // a joined error has a line for each
	}
}
