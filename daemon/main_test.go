package daemon

import (
	"context"
	"os"
	"testing"

	"github.com/attune-io/attune/exec/timer"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// TestMain lets the test binary be what a daemon starts of itself: the keeper, which storetest sees to,
// and the timer engine.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "timer-engine" {
		os.Exit(timer.Main(context.Background(), os.Stdin, os.Stdout, os.Stderr, os.Getenv))
	}
	storetest.Main(m)
}
