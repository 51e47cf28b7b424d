package filechange

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/attune-io/attune/reconcile"
)

// exitConfig tells the supervisor that another start would not help.
const exitConfig = 78

// Main is the hidden command `attune filechange-engine`: instances from the environment, updates and
// acknowledgements from stdin, events to stdout, problems to stderr. It gives the exit code. It ends with
// ctx, not with stdin: a daemon that dies takes its sensors with it by the keeper.
func Main(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	dir := getenv("ATTUNE_DATA_DIR")
	instances, err := firstInstances(getenv)
	if err == nil && dir == "" {
		err = errors.New("cannot keep what is known of the files: ATTUNE_DATA_DIR is not set; this command is started by the daemon, which sets it")
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfig
	}
	engine := New(dir, stdout, stderr, reconcile.WatchFolders())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Nothing can take this back from a read of stdin; it ends with the process.
	go listen(ctx, stdin, stderr, engine)
	if err := engine.Run(ctx, instances); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func firstInstances(getenv func(string) string) ([]Instance, error) {
	text := []byte(getenv("ATTUNE_SENSOR_TRIGGERS"))
	if file := getenv("ATTUNE_SENSOR_TRIGGERS_FILE"); len(text) == 0 && file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("cannot read trigger instances: %v", err)
		}
	}
	if len(text) == 0 {
		return nil, errors.New("cannot find trigger instances: this command is started by the daemon, which sets ATTUNE_SENSOR_TRIGGERS or ATTUNE_SENSOR_TRIGGERS_FILE")
	}
	var instances []Instance
	if err := json.Unmarshal(text, &instances); err != nil {
		return nil, fmt.Errorf("cannot read trigger instances: %v", err)
	}
	return instances, nil
}

// listen takes what the daemon says on stdin, line by line, until its end.
func listen(ctx context.Context, stdin io.Reader, stderr io.Writer, engine *Engine) {
	lines := bufio.NewReader(stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var m struct {
				Ack       string      `json:"ack"`
				Type      string      `json:"type"`
				Instances *[]Instance `json:"instances"`
			}
			// Lines of other types may come from a newer daemon.
			switch problem := json.Unmarshal(line, &m); {
			case problem != nil:
				fmt.Fprintln(stderr, "cannot read a line of stdin:", problem)
			case m.Ack != "":
				engine.Ack(ctx, m.Ack)
			case m.Type == "triggers" && m.Instances != nil:
				engine.Set(ctx, *m.Instances)
			}
		}
		if err != nil || ctx.Err() != nil {
			return
		}
	}
}
