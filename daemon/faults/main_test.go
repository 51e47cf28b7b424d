// Package faults breaks things around real daemons and says what has to become of them: the binary, real
// PostgreSQL, real sensors and actions, real editors and copiers. Each test is one fault, named by its
// number in the list of faults (F01, F02, …) and its words.
//
// A file is a group of faults. What is over in seconds and needs no privileges runs with all other
// tests; what takes minutes or needs root is in files with the build tag faults, and `make faults` runs
// everything.
//
// A test makes a yard, which has a database and folders of its own, and starts nodes in it, one daemon
// each. Nothing is ever waited for by time alone: until waits for a condition, with a patience that only
// a failure uses up; and what there is much of is waited for as long as it goes on (goesOn).
package faults

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/cli"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// patience is how long a test waits for what must come, on a machine with much else to do.
const patience = 2 * time.Minute

// binaryName is the name under which the test binary is the daemon and its command line.
const binaryName = "attune"

// binary is the path of that. It is a variable of the package, because it is made before any test.
var binary string

// TestMain lets the test binary be the program that it tests: so the race detector, where it is on,
// watches the daemons too, and nothing is built twice.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == binaryName {
		os.Exit(cli.Main(context.Background(), cli.System{
			Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			Getenv: os.Getenv, Environ: os.Environ(),
			Version: cli.Version{Version: "0.0.0-test", Commit: "unknown", Date: "unknown", Go: runtime.Version()},
		}))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	tests := storetest.Wrap(m) // before anything else: this process may be the keeper of another
	dir, err := os.MkdirTemp("", "attune-faults-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, binaryName)
	if err := copyProgram(binary); err != nil {
		panic(err)
	}
	return tests.Last(common.end).Run()
}

// copyProgram copies this program, so that the copy has its own name in the process table.
func copyProgram(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		return err
	}
	// Daemons of other users start it too.
	return os.Chmod(filepath.Dir(to), 0o755)
}
