// Command attune is the daemon and the command line in one binary.
package main

import (
	"context"
	"os"
	"runtime"

	"github.com/attune-io/attune/daemon/cli"
)

// Filled in by the linker.
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

func main() {
	os.Exit(cli.Main(context.Background(), cli.System{
		Args:    os.Args[1:],
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Getenv:  os.Getenv,
		Environ: os.Environ(),
		Version: cli.Version{Version: version, Commit: commit, Date: date, Go: runtime.Version()},
	}))
}
