package cli

import (
	"context"
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
	"github.com/attune-io/attune/reconcile/store"
)

func (c *command) runCommand() *cobra.Command {
	r := &runner{command: c}
	var at string
	var priority, retries int
	var retryDelay time.Duration
	cmd := &cobra.Command{
		Use:   "run REF [NAME=VALUE…|@FILE|-]",
		Short: "Run an action, print its output as it comes, exit with its code",
		Long: "Runs an action and waits for it. Values are read by the action's schema: n=21 is a number where\n" +
			"it wants one, tags='[\"a\"]' a list. NAME=@file:PATH is the content of a file, NAME=@secret:NAME a\n" +
			"secret of the daemon's, read when the action starts. @FILE and - read all parameters as one JSON\n" +
			"object from a file or from stdin.\n\n" +
			"Exits with the action's own code; 124 timed out, 125 it could not be run, 128+n ended by signal n,\n" +
			"130 cancelled. The first Ctrl-C asks the daemon to cancel, the second stops waiting.\n\n" +
			"--count and --each queue many, and end with a summary: exit 0 if all succeeded, else 1.",
		Example: "  attune run core.echo message=hello\n  attune run core.sleep seconds=5 --timeout 2s\n" +
			"  attune run core.http_request url=http://localhost:8080 -o json\n" +
			"  attune run core.echo --each messages.jsonl",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			switch {
			case changed("timeout") && r.ask.TimeoutSeconds <= 0:
				return usagef("cannot stop the action after --timeout %s: expected more than 0s", cmd.Flag("timeout").Value)
			case changed("timeout-total") && r.ask.TimeoutTotalSeconds <= 0:
				return usagef("cannot stop all attempts after --timeout-total %s: expected more than 0s", cmd.Flag("timeout-total").Value)
			case changed("timeout") && changed("timeout-total") && r.ask.TimeoutTotalSeconds < r.ask.TimeoutSeconds:
				return usagef("cannot use --timeout-total %s: it is shorter than --timeout, which one attempt may take", cmd.Flag("timeout-total").Value)
			case changed("count") && r.each != "":
				return usagef("cannot use --count and --each together: a line of the file is one execution")
			case changed("count") && r.count < 1:
				return usagef("cannot queue --count %d: expected 1 or more", r.count)
			case retries < 0 || retryDelay < 0:
				return usagef("cannot try again --retry %d times after --retry-delay %s: expected 0 or more", retries, retryDelay)
			case changed("retry-delay") && retries == 0:
				return usagef("cannot use --retry-delay without --retry")
			}
			if changed("retry") {
				r.ask.Retry = &api.RetryPolicy{MaxAttempts: retries + 1, DelaySeconds: retryDelay.Seconds()}
			}
			if changed("priority") {
				r.ask.Priority = &priority
			}
			if at != "" {
				due, err := parseAt(at, time.Now())
				if err != nil {
					return err
				}
				r.ask.DueAt = &due
			}
			r.many = r.each != "" || changed("count")
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
	flags := cmd.Flags()
	flags.BoolVarP(&r.detach, "detach", "d", false, "print the execution's id and do not wait")
	flags.Var((*secondsFlag)(&r.ask.TimeoutSeconds), "timeout", "stop the action after this time (default: the action's own)")
	flags.Var((*secondsFlag)(&r.ask.TimeoutTotalSeconds), "timeout-total", "stop trying after this time, all attempts together (default: the action's own)")
	flags.IntVar(&retries, "retry", 0, "try again so often if it fails or times out (default: the action's own)")
	flags.DurationVar(&retryDelay, "retry-delay", 0, "wait so long before each --retry")
	flags.StringVar(&at, "at", "", "run it then: 10m from now, 18:30, \"2026-01-31 18:30\" or 2026-01-31T18:30:00Z")
	flags.IntVar(&priority, "priority", 0, "go before others of its pack with a lower one (default: the action's own)")
	flags.IntVar(&r.count, "count", 1, "run it so many times")
	flags.StringVar(&r.each, "each", "", "run it once for each line of a file (- is stdin): a JSON object of parameters")
	return cmd
}

// secondsFlag is a duration kept as seconds, which is what the API wants.
type secondsFlag float64

func (s *secondsFlag) Type() string { return "duration" }

func (s *secondsFlag) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(float64(*s) * float64(time.Second)).String()
}

func (s *secondsFlag) Set(text string) error {
	d, err := time.ParseDuration(text)
	*s = secondsFlag(d.Seconds())
	return err
}

// parseAt reads a time to come.
func parseAt(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(d), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		clock, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
		if !at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()+1, clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
		}
		return at, nil
	}
	return time.Time{}, &usageError{
		text: fmt.Sprintf("cannot run it --at %q: expected a time", text),
		hint: "Write 10m (from now), 18:30, \"2026-01-31 18:30\" or 2026-01-31T18:30:00Z.",
	}
}

// runner is one `attune run`.
type runner struct {
	*command
	ask    api.NewExecution // what all executions have in common
	detach bool
	many   bool
	count  int
	each   string // file; "-": stdin
}

func (r *runner) run(ctx context.Context, ref string, words []string) (int, error) {
	client, err := r.client()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	i := r.hearInterrupts()
	defer i.stop()
	action, err := client.Action(ctx, ref)
	if err != nil {
		return 0, err
	}
	g, err := r.parameters(words, action.Parameters, "action "+ref)
	if err != nil {
		return 0, err
	}
	r.ask.Action, r.ask.Parameters, r.ask.Secrets = ref, g.values, g.secrets
	if r.many {
		return r.runMany(ctx, client, i)
	}
	queued, err := client.Execute(ctx, r.ask)
	if err != nil {
		return 0, err
	}
	if r.detach {
		return exitDone, r.print(queued, func(w io.Writer) { fmt.Fprintln(w, queued.ID) })
	}
	if queued.Status == store.StatusScheduled && queued.DueAt != nil {
		r.note("execution %d waits until %s", queued.ID, queued.DueAt.Local().Format(time.RFC3339))
	}
	last, err := r.follow(ctx, client, queued.ID, i)
	if errors.Is(err, errLeft) {
		r.note("execution %d goes on until it is cancelled; see `attune execution show %d`", queued.ID, queued.ID)
		return i.code(), nil
	}
	if err != nil {
		return 0, err
	}
	if r.output != outputTable {
		if err := r.print(last, nil); err != nil {
			return 0, err
		}
	}
	return r.verdict(last, i), nil
}

// interrupts are the signals by which people stop waiting.
type interrupts struct {
	signals chan os.Signal
	last    os.Signal // nil: none came
}

func (r *runner) hearInterrupts() *interrupts {
	i := &interrupts{signals: make(chan os.Signal, 2)}
	signal.Notify(i.signals, os.Interrupt, syscall.SIGTERM)
	return i
}

func (i *interrupts) stop() { signal.Stop(i.signals) }

// take notes which signal it was.
func (i *interrupts) take(s os.Signal) { i.last = s }

// code is the exit code of who stopped waiting: as shells have it, after which signal it was.
func (i *interrupts) code() int {
	if s, ok := i.last.(syscall.Signal); ok && s != syscall.SIGINT {
		return exitSignalBase + int(s)
	}
	return exitInterrupted
}

// errLeft says that the person stopped waiting.
var errLeft = errors.New("stopped waiting")

// follow prints the output as it comes until the execution ends. The first interrupt asks for a
// cancel and goes on, so that the end is seen; the second leaves.
func (r *runner) follow(ctx context.Context, client *api.Client, id int64, i *interrupts) (*api.ExecutionDetail, error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	followed := make(chan struct{})
	hearing := make(chan struct{})
	go func() {
		defer close(hearing)
		for n := 1; ; n++ {
			select {
			case s := <-i.signals:
				i.take(s)
			case <-followed:
				return
			}
			if n > 1 {
				leave(errLeft)
				return
			}
			r.note("cancelling execution %d; once more to stop waiting", id)
			go func() {
				if _, err := client.Cancel(ctx, id); err != nil && ctx.Err() == nil && !isConflict(err) {
					r.complain(err.Error(), "")
				}
			}()
		}
	}()
	stopTelling := r.tellWaiting(ctx, client, id)
	defer stopTelling()
	p := newPrinter(r.command, id)
	p.quiet = r.output != outputTable
	last, err := p.follow(ctx, client)
	close(followed)
	<-hearing
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return nil, cause
	}
	return last, err
}

// tellAfter is when somebody who waits for an execution to begin is told why it does not.
const tellAfter = time.Second

// tellWaiting says once what an execution waits for that has not begun after a while.
func (r *runner) tellWaiting(ctx context.Context, client *api.Client, id int64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-ctx.Done():
			return
		case <-time.After(tellAfter):
		}
		// One that waits for its time was told of before.
		if e, err := client.Execution(ctx, id); err == nil && e.WaitsFor != nil && e.Status == store.StatusRequested {
			r.note("execution %d waits for %s", id, *e.WaitsFor)
		}
	}()
	return func() {
		cancel()
		<-told
	}
}

// isConflict says whether something had ended before it could be stopped.
func isConflict(err error) bool {
	problem, ok := errors.AsType[*api.Error](err)
	return ok && problem.Code == api.CodeConflict
}

const (
	// awayPatience is how long a daemon that has gone away is waited for: that of a restart, in which a
	// private PostgreSQL may have to recover.
	awayPatience = 60 * time.Second

	// awayPause is how often it is looked for meanwhile.
	awayPause = 250 * time.Millisecond
)

// printer prints the output of one execution, each byte of an attempt once, also where the daemon is
// started anew meanwhile.
type printer struct {
	*command
	id      int64
	quiet   bool // only the end matters
	attempt int
	printed map[string]int // bytes of this attempt, by stream
	passing map[string]int // bytes that come once more
}

func newPrinter(c *command, id int64) *printer {
	return &printer{command: c, id: id, printed: map[string]int{}, passing: map[string]int{}}
}

// outputs gives what an execution prints, and its end; api.Client is it.
type outputs interface {
	Output(ctx context.Context, id int64, follow bool, each func(*api.OutputLine) error) (*api.ExecutionDetail, error)
}

var _ outputs = (*api.Client)(nil)

// follow prints until the execution has ended. A daemon that goes away is waited for, each time anew.
func (p *printer) follow(ctx context.Context, client outputs) (*api.ExecutionDetail, error) {
	var away time.Time // since when there is no daemon
	for {
		p.passing = maps.Clone(p.printed)
		last, err := client.Output(ctx, p.id, true, p.line)
		if err == nil || ctx.Err() != nil || api.IsRefusal(err) && !api.IsUnavailable(err) || errors.As(err, new(*writeError)) {
			return last, err
		}
		// One that answered was there until now, also where the execution had nothing to say.
		if _, answered := errors.AsType[*api.BrokenOffError](err); answered || away.IsZero() {
			away = time.Now()
			p.note("%v; waiting for it", err)
		}
		if time.Since(away) > awayPatience {
			return nil, fmt.Errorf("%w; waited %s for it: `attune execution show %d` tells how the execution ended, once a daemon is back",
				err, awayPatience, p.id)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(awayPause):
		}
	}
}

// writeError is a failure of our own stdout or stderr.
type writeError struct{ err error }

func (e *writeError) Error() string { return "cannot print the output: " + e.err.Error() }

func (p *printer) line(line *api.OutputLine) error {
	if line.Attempt > p.attempt {
		if p.attempt > 0 && !p.quiet {
			p.note("attempt %d of execution %d begins", line.Attempt, p.id)
		}
		p.attempt, p.printed, p.passing = line.Attempt, map[string]int{}, map[string]int{}
	}
	if p.quiet || line.Text == "" {
		return nil
	}
	text := line.Text
	skip := min(p.passing[line.Stream], len(text))
	p.passing[line.Stream] -= skip
	text = text[skip:]
	p.printed[line.Stream] += len(text)
	w := p.sys.Stdout
	if line.Stream == "stderr" {
		w = p.sys.Stderr
	}
	if _, err := io.WriteString(w, text); err != nil {
		return &writeError{err}
	}
	return nil
}

// verdict turns the end of an execution into the exit code, and tells why where the action has not
// told it itself.
func (r *runner) verdict(e *api.ExecutionDetail, i *interrupts) int {
	why := ""
	if e.Error != nil {
		why = *e.Error
	}
	if why != "" && r.output == outputTable {
		r.complain(fmt.Sprintf("execution %d %s: %s", e.ID, statusText(e.Status), why), "")
	}
	switch e.Status {
	case store.StatusSucceeded:
		return exitDone
	case store.StatusTimedOut:
		return exitTimedOut
	case store.StatusCancelled:
		return i.code()
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

// statusText is a status as a word of a sentence.
func statusText(status store.Status) string { return strings.ReplaceAll(string(status), "_", " ") }

// signalNumber finds the number of a signal by its name.
func signalNumber(name string) int {
	return int(unix.SignalNum(name))
}
