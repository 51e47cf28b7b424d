package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/daemon/api"
)

// thing is what the lists of these tests are of.
type thing struct {
	ID    int       `json:"id"`
	State string    `json:"state"`
	At    time.Time `json:"at"`
}

// lookErr is an answer that is an error.
type lookErr struct{ err error }

// things is a list that gives one answer after the other, and then ends the context.
func things(cancel func(), answers ...any) list[thing] {
	return list[thing]{
		noun:        "thing",
		newestFirst: true,
		columns: []column[thing]{
			numberColumn("id", func(t *thing) int { return t.ID }),
			stateColumn("state", func(t *thing) string { return t.State }),
			ageColumn("age", func(t *thing) *time.Time { return &t.At }),
			textColumn("more", func(t *thing) string { return t.State + "!" }).onlyWide(),
		},
		name: func(t *thing) string { return fmt.Sprint(t.ID) },
		ask: func(*api.Client, context.Context) ([]thing, error) {
			if len(answers) == 0 {
				cancel()
				return nil, context.Canceled
			}
			answer := answers[0]
			answers = answers[1:]
			if e, ok := answer.(lookErr); ok {
				return nil, e.err
			}
			return answer.([]thing), nil
		},
	}
}

func watched(t *testing.T, output string, answers ...func(time.Time) any) (stdout, stderr string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out, errs bytes.Buffer
		c := &command{sys: System{Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}, output: output}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var made []any
		for _, a := range answers {
			made = append(made, a(time.Now()))
		}
		l := things(cancel, made...)
		err = l.watch(ctx, c, nil)
		stdout, stderr = out.String(), errs.String()
	})
	return stdout, stderr, err
}

func TestWatch(t *testing.T) {
	t.Parallel()
	of := func(list ...thing) func(time.Time) any {
		return func(now time.Time) any {
			list := append([]thing(nil), list...)
			for i := range list {
				list[i].At = now
			}
			return list
		}
	}
	fails := func(err error) func(time.Time) any { return func(time.Time) any { return lookErr{err} } }
	away := fmt.Errorf("cannot reach a daemon at x: %w", api.ErrNoDaemon)
	refused := &api.Error{Code: api.CodeInvalidRequest, Detail: "no"}
	script := []func(time.Time) any{
		of(thing{ID: 2, State: "running"}, thing{ID: 1, State: "succeeded"}),
		of(thing{ID: 2, State: "running"}, thing{ID: 1, State: "succeeded"}),
		fails(away), fails(away),
		of(thing{ID: 4, State: "requested"}, thing{ID: 3, State: "requested"}, thing{ID: 2, State: "failed"}),
	}
	for _, test := range []struct {
		name, output   string
		answers        []func(time.Time) any
		stdout, stderr string
		err            error
	}{
		{
			name: "table", output: outputTable, answers: script,
			stdout: "ID  STATE      AGE\n1   succeeded  0ms\n2   running    0ms\n" +
				"2   failed     4s\n3   requested  4s\n4   requested  4s\n",
			stderr: away.Error() + "; waiting for it\n",
		},
		{
			name: "name", output: outputName, answers: script,
			stdout: "1\n2\n2\n3\n4\n", stderr: away.Error() + "; waiting for it\n",
		},
		{
			name: "json", output: outputJSON, answers: script[:2],
			stdout: `{"id":1,"state":"succeeded","at":"2000-01-01T00:00:00Z"}` + "\n" + `{"id":2,"state":"running","at":"2000-01-01T00:00:00Z"}` + "\n",
		},
		{
			name: "yaml", output: outputYAML, answers: []func(time.Time) any{of(thing{ID: 1, State: "ok"})},
			stdout: "---\nid: 1\nstate: ok\nat: \"2000-01-01T00:00:00Z\"\n",
		},
		{
			name: "empty at first", output: outputWide, answers: []func(time.Time) any{of(), of(thing{ID: 1, State: "ok"})},
			stdout: "ID  STATE  AGE  MORE\n1   ok     1s   ok!\n", stderr: "no things yet\n",
		},
		{name: "no daemon at first", output: outputTable, answers: script[2:], err: away},
		{name: "refused later", output: outputName, answers: []func(time.Time) any{of(thing{ID: 1}), fails(refused)}, stdout: "1\n", err: refused},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := watched(t, test.output, test.answers...)
			if err != test.err { //nolint:errorlint // the very error is meant
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.stdout, stdout); diff != "" {
				t.Errorf("stdout (-want +have):\n%s", diff)
			}
			if diff := cmp.Diff(test.stderr, stderr); diff != "" {
				t.Errorf("stderr (-want +have):\n%s", diff)
			}
		})
	}
}

// TestConfirm holds that nothing is done to many where nobody can be asked.
func TestConfirm(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	c := &command{sys: System{Stdin: bytes.NewBufferString("y\n"), Stderr: &errs, Stdout: io.Discard, Getenv: func(string) string { return "" }}}
	if err := c.confirm("Cancel 17 executions", true); err != nil {
		t.Errorf("with --yes: %v", err)
	}
	err := c.confirm("Cancel 17 executions", false)
	if code := c.finish(err); code != exitUsage {
		t.Errorf("without a terminal: exit %d (%v), want %d", code, err, exitUsage)
	}
	want := "error: cannot ask \"Cancel 17 executions?\": stdin is not a terminal\nSay --yes to go on without a question.\n"
	if diff := cmp.Diff(want, errs.String()); diff != "" {
		t.Errorf("stderr (-want +have):\n%s", diff)
	}
}

// What the daemon tells is printed as it comes, once; where it cannot tell all, the list is read again.
func TestWatchIsTold(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	c := &command{sys: System{Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}, output: outputName}
	l := things(func() {}, []thing{{ID: 2, State: "new"}, {ID: 1, State: "old"}}, []thing{{ID: 4, State: "new"}, {ID: 2, State: "new"}})
	ended := errors.New("refused")
	l.follow = func(_ *api.Client, _ context.Context, follow api.Follow[thing]) error {
		for _, step := range []func() error{
			follow.Ready,
			func() error { return follow.Item(&thing{ID: 3, State: "new"}) },
			func() error { return follow.Item(&thing{ID: 1, State: "old"}) }, // was in the list
			func() error { return follow.Item(&thing{ID: 1, State: "done"}) },
			func() error { return follow.Away(errors.New("gone")) },
			func() error { return follow.Gap(&api.Gap{Reason: "anew"}) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return ended
	}
	if err := l.watch(t.Context(), c, nil); !errors.Is(err, ended) {
		t.Errorf("found %v", err)
	}
	if diff := cmp.Diff("1\n2\n3\n1\n4\n", out.String()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("gone; waiting for it\nnot all is told: anew\n", errs.String()); diff != "" {
		t.Error(diff)
	}
}
