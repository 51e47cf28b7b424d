package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func (c *command) runCommand() *cobra.Command {
	var detach bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "run REF [NAME=VALUE…|@FILE|-]",
		Short: "Run an action, print its output as it comes, exit with its code",
		Long: "Runs an action and waits for it. Values are read by the action's schema: n=21 is a number where\n" +
			"it wants one, tags='[\"a\"]' a list. @FILE and - read all parameters as one JSON object from a\n" +
			"file or from stdin.\n\n" +
			"Exits with the action's own code; 124 timed out, 125 it could not be run, 128+n ended by signal n,\n" +
			"130 cancelled. The first Ctrl-C asks the daemon to cancel, the second stops waiting.",
		Example: "  attune run core.echo message=hello\n  attune run core.sleep seconds=5 --timeout 2s\n" +
			"  attune run core.http_request url=http://localhost:8080 -o json",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usagef("cannot wait for --timeout %s: expected more than 0s", timeout)
			}
			r := &runner{command: c, detach: detach, timeout: timeout}
			code, err := r.run(cmd.Context(), args[0], args[1:])
			if _, ok := errors.AsType[*usageError](err); ok {
				return err
			}
			if err != nil {
				// Whatever its cause, 125 tells a script that the action itself has not spoken.
				c.finish(err)
				return &exitError{exitCannotRun}
			}
			if code != exitDone {
				return &exitError{code}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the execution's id and do not wait")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "stop the action after this time (default: the action's own)")
	return cmd
}

// runner is one `attune run`.
type runner struct {
	*command
	detach  bool
	timeout time.Duration
}

func (r *runner) run(ctx context.Context, ref string, words []string) (int, error) {
	client, err := r.client()
	if err != nil {
		return 0, err
	}
	action, err := client.Action(ctx, ref)
	if err != nil {
		return 0, err
	}
	parameters, err := r.values(words, action.Parameters)
	if err != nil {
		return 0, err
	}
	queued, err := client.Execute(ctx, api.NewExecution{
		Action: ref, Parameters: parameters, TimeoutSeconds: r.timeout.Seconds(),
	})
	if err != nil {
		return 0, err
	}
	if r.detach {
		return exitDone, r.print(queued, func(w io.Writer) { fmt.Fprintln(w, queued.ID) })
	}
	last, err := r.follow(ctx, client, queued.ID)
	if errors.Is(err, errLeft) {
		r.note("execution %d goes on until it is cancelled; see `attune execution show %d`", queued.ID, queued.ID)
		return exitInterrupted, nil
	}
	if err != nil {
		return 0, err
	}
	if r.output != "table" {
		if err := r.print(last, nil); err != nil {
			return 0, err
		}
	}
	return r.verdict(last), nil
}

// errLeft says that the person stopped waiting.
var errLeft = errors.New("stopped waiting")

// follow prints the output as it comes until the execution ends. The first interrupt asks for a
// cancel and goes on, so that the end is seen; the second leaves.
func (r *runner) follow(ctx context.Context, client *api.Client, id int64) (*api.ExecutionDetail, error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	go func() {
		select {
		case <-interrupts:
		case <-ctx.Done():
			return
		}
		r.note("cancelling execution %d; once more to stop waiting", id)
		if _, err := client.Cancel(ctx, id); err != nil && ctx.Err() == nil {
			r.complain(err.Error(), "")
		}
		select {
		case <-interrupts:
			leave(errLeft)
		case <-ctx.Done():
		}
	}()
	last, err := client.Output(ctx, id, true, func(chunk worker.Chunk) error {
		if r.output != "table" {
			return nil
		}
		w := r.sys.Stdout
		if chunk.Stream == "stderr" {
			w = r.sys.Stderr
		}
		_, err := io.WriteString(w, chunk.Text)
		return err
	})
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return nil, cause
	}
	return last, err
}

// verdict turns the end of an execution into the exit code, and tells why where the action has not
// told it itself.
func (r *runner) verdict(e *api.ExecutionDetail) int {
	why := ""
	if e.Error != nil {
		why = *e.Error
	}
	if why != "" && r.output == "table" {
		r.complain(fmt.Sprintf("execution %d %s: %s", e.ID, strings.ReplaceAll(string(e.Status), "_", " "), why), "")
	}
	switch e.Status {
	case store.StatusSucceeded:
		return exitDone
	case store.StatusTimedOut:
		return exitTimedOut
	case store.StatusCancelled:
		return exitInterrupted
	case store.StatusFailed:
	default:
		return exitCannotRun
	}
	switch {
	case e.ExitCode != nil && *e.ExitCode != 0:
		return *e.ExitCode
	case e.ExitCode != nil:
		return exitFailed // it exited 0, but its result was no good
	case e.Signal != nil && *e.Signal != "":
		return exitSignalBase + signalNumber(*e.Signal)
	default:
		return exitCannotRun
	}
}

// signalNumber finds the number of a signal by its name.
func signalNumber(name string) int {
	return int(unix.SignalNum(name))
}

// values reads NAME=VALUE words by the schema, and whole objects from @FILE and -. Later ones win.
func (c *command) values(words []string, schema *manifest.Schema) (map[string]any, error) {
	values := map[string]any{}
	for _, word := range words {
		var text []byte
		var err error
		switch {
		case word == "-":
			text, err = io.ReadAll(c.sys.Stdin)
		case strings.HasPrefix(word, "@"):
			text, err = os.ReadFile(word[1:])
		default:
			name, value, ok := strings.Cut(word, "=")
			if !ok || name == "" {
				return nil, usagef("cannot read %q: expected name=value, @file or -", word)
			}
			v, err := coerce(schema, name, value)
			if err != nil {
				return nil, err
			}
			values[name] = v
			continue
		}
		if err != nil {
			return nil, usagef("cannot read parameters: %v", err)
		}
		var object map[string]any
		decoder := json.NewDecoder(strings.NewReader(string(text)))
		decoder.UseNumber()
		if err := decoder.Decode(&object); err != nil {
			return nil, usagef("cannot read parameters from %s: expected one JSON object: %v", word, err)
		}
		if decoder.More() {
			return nil, usagef("cannot read parameters from %s: expected one JSON object, found more behind it", word)
		}
		maps.Copy(values, object)
	}
	return values, nil
}

// coerce reads one value. Without a schema the daemon says what is wrong.
func coerce(schema *manifest.Schema, name, value string) (any, error) {
	if schema == nil {
		return value, nil
	}
	return schema.Coerce(name, value)
}
