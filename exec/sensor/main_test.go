package sensor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/attune-io/attune/exec/child"
)

// shared is what the tests with real processes use together: a process has one subreaper.
var shared struct {
	runner       *child.Runner
	interpreters *child.Interpreters
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	var err error
	if shared.runner, err = child.NewRunner(ctx, child.Options{Logger: quiet(), NoKeeper: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if shared.interpreters, err = child.ProbeInterpreters(ctx, shared.runner, os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.runner.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// sleep lets time go by inside a synctest bubble.
func sleep(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's time, which takes none
}
