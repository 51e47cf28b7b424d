package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/attune-io/attune/daemon/api"
)

// ask puts one question to the daemon and prints the answer: as JSON or YAML, or by human where people
// read it. A question is a method of the client's, such as (*api.Client).Status.
func ask[T any](ctx context.Context, c *command,
	question func(*api.Client, context.Context) (T, error), human func(io.Writer, T),
) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := question(client, ctx)
	if err != nil {
		return err
	}
	return c.print(answer, func(w io.Writer) { human(w, answer) })
}

// byRef completes a command on one thing that has a ref, such as show and restart.
func byRef[T any](c *command, cmd *cobra.Command, noun string,
	question func(*api.Client, context.Context, string) (T, error), human func(io.Writer, T),
) *cobra.Command {
	cmd.Args = needOne(noun)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (T, error) {
			return question(client, ctx, args[0])
		}, human)
	}
	return cmd
}

// byID completes a command on one thing that has a number.
func byID[T any](c *command, cmd *cobra.Command,
	question func(*api.Client, context.Context, int64) (T, error), human func(io.Writer, T),
) *cobra.Command {
	cmd.Args = needOne("id")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseID(args[0])
		if err != nil {
			return err
		}
		return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (T, error) {
			return question(client, ctx, id)
		}, human)
	}
	return cmd
}

// needOne is for commands that take exactly one ref or id.
func needOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s is missing", what)
		case len(args) > 1:
			return fmt.Errorf("expected one %s, found %d words: %s", what, len(args), strings.Join(args, " "))
		}
		return nil
	}
}

// parseID reads an id from the command line.
func parseID(word string) (int64, error) {
	id, err := strconv.ParseInt(word, 10, 64)
	if err != nil || id <= 0 {
		return 0, usagef("cannot use %q as an id: expected a number such as 17", word)
	}
	return id, nil
}

// confirm has a person agree to what concerns many things at once: what is the whole question without
// its mark, such as "Cancel 17 executions". With yes nobody is asked; where nobody can be, it refuses.
func (c *command) confirm(what string, yes bool) error {
	if yes {
		return nil
	}
	if file, ok := c.sys.Stdin.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		return &usageError{
			text: fmt.Sprintf("cannot ask %q: stdin is not a terminal", what+"?"),
			hint: "Say --yes to go on without a question.",
		}
	}
	fmt.Fprintf(c.sys.Stderr, "%s? [y/N] ", what)
	answer, err := bufio.NewReader(c.sys.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		c.note("")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	c.note("nothing was done")
	return &exitError{exitFailed}
}
