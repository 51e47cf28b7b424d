package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

// The exit codes of every command but run.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNoDaemon = 3
)

// The exit codes of run that are not the action's own, as timeout(1) and shells have them.
const (
	exitTimedOut    = 124
	exitCannotRun   = 125
	exitInterrupted = 130
	exitSignalBase  = 128
)

// Version is what `attune version` prints, filled in by the linker.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Go      string `json:"go"`
}

// System is the world that a command runs in.
type System struct {
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Environ []string
	Version Version
}

// Main runs one command and gives its exit code. It returns when ctx ends as soon as the command can.
func Main(ctx context.Context, sys System) int {
	c := &command{sys: sys}
	root := c.root()
	root.SetArgs(sys.Args)
	err := root.ExecuteContext(ctx)
	return c.finish(err)
}

// command is one invocation.
type command struct {
	sys System

	configPath string
	url        string
	tokenFile  string
	caFile     string
	output     string
	noColor    bool
	width      int // of the terminal, in columns; 0: as it is
}

// usageError is a mistake in the command line itself.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// exitError ends a command with a code after it has said all there is to say.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// finish prints an error with what to do next, and turns it into the exit code.
func (c *command) finish(err error) int {
	var exit *exitError
	var usage *usageError
	var config *daemon.ConfigError
	var problem *api.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		c.complain(usage.text, usage.hint)
		return exitUsage
	case errors.As(err, &config):
		c.complain(err.Error(), "")
		return exitUsage
	case errors.Is(err, api.ErrUntrusted):
		c.complain(err.Error(), "Name the certificates that sign it with --ca-file or ATTUNE_CA_FILE, or a name that it is for with --url.")
		return exitNoDaemon
	case errors.Is(err, api.ErrDenied):
		c.complain(err.Error(), "Join the group that owns it and log in anew, or use the daemon's user.")
		return exitNoDaemon
	case errors.Is(err, api.ErrPlain):
		c.complain(err.Error(), "Name it with http:// by --url or ATTUNE_URL, or another daemon.")
		return exitNoDaemon
	case errors.Is(err, api.ErrTLS):
		c.complain(err.Error(), "Name it with https:// by --url or ATTUNE_URL.")
		return exitNoDaemon
	case errors.Is(err, api.ErrNoDaemon):
		c.complain(err.Error(), "Start one with `attune daemon`, or name another with --url or --config.")
		return exitNoDaemon
	case errors.As(err, &problem):
		c.complain(problem.Error(), problem.Hint)
		if problem.Code == api.CodeInvalidRequest {
			return exitUsage // a word of the command line that only the daemon reads, such as that of --since
		}
		return exitFailed
	default:
		c.complain(err.Error(), "")
		return exitFailed
	}
}

// complain writes an error to stderr.
func (c *command) complain(text, hint string) {
	fmt.Fprintf(c.sys.Stderr, "%s %s\n", c.paint(styleBad, "error:"), text)
	if hint != "" {
		fmt.Fprintln(c.sys.Stderr, hint)
	}
}

// note tells something beside the data.
func (c *command) note(format string, args ...any) {
	fmt.Fprintf(c.sys.Stderr, format+"\n", args...)
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "attune",
		Short: "Keeps a running automation equal to a folder of files",
		Long: "Attune keeps a running automation equal to a folder of files: it watches packs/, checks and\n" +
			"applies what it reads, supervises sensors, turns their events into executions by rules, and\n" +
			"runs them.",
		Example:       "  attune daemon\n  attune run core.echo message=hello\n  attune status",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(c.sys.Stdin)
	root.SetOut(c.sys.Stdout)
	root.SetErr(c.sys.Stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&c.configPath, "config", "", "configuration file (default: $ATTUNE_CONFIG, ./attune.toml, /etc/attune/attune.toml)")
	flags.StringVar(&c.url, "url", "", "daemon to talk to (default: $ATTUNE_URL, else its unix socket)")
	flags.StringVar(&c.tokenFile, "token-file", "", "file with the token for --url (default: $ATTUNE_TOKEN, $ATTUNE_TOKEN_FILE)")
	flags.StringVar(&c.caFile, "ca-file", "", "certificates to believe beside --url (default: $ATTUNE_CA_FILE, else the machine's)")
	flags.StringVarP(&c.output, "output", "o", outputTable, "how to print: table, json or yaml; lists also wide and name")
	flags.BoolVar(&c.noColor, "no-color", false, "print without colour (as does $NO_COLOR)")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return c.checkOutput(cmd) }
	root.SetFlagErrorFunc(flagError)

	root.AddCommand(
		c.daemonCommand(),
		c.statusCommand(),
		c.doctorCommand(),
		c.topCommand(),
		c.packCommand(),
		c.actionCommand(),
		c.triggerCommand(),
		c.sensorCommand(),
		c.ruleCommand(),
		c.eventCommand(),
		c.executionCommand(),
		c.whyCommand(),
		c.runCommand(),
		c.pauseCommand(),
		c.resumeCommand(),
		c.auditCommand(),
		c.tokenCommand(),
		c.importCommand(),
		c.databaseCommand(),
		c.configCommand(),
		c.migrateCommand(),
		c.versionCommand(),
		c.completionCommand(),
		c.manualCommand(),
		c.keeperCommand(),
		c.timerEngineCommand(), c.filechangeEngineCommand(),
	)
	c.completions(root)
	c.strictGroups(root)
	narrow(root)
	return root
}

// furtherOutput is the annotation of a command that prints in one more way than others.
const furtherOutput = "attune.output"

// checkOutput refuses a way to print that the command does not have, before it does anything.
func (c *command) checkOutput(cmd *cobra.Command) error {
	known := []string{outputTable, outputJSON, outputYAML}
	if _, isList := cmd.Annotations[listing]; isList {
		known = []string{outputTable, outputWide, outputJSON, outputYAML, outputName}
	}
	if more, ok := cmd.Annotations[furtherOutput]; ok {
		known = append(known, more)
	}
	if slices.Contains(known, c.output) {
		return nil
	}
	last := len(known) - 1
	err := &usageError{text: fmt.Sprintf("cannot print as %q: expected %s or %s", c.output, strings.Join(known[:last], ", "), known[last])}
	if near := manifest.Nearest(c.output, known); near != "" {
		err.hint = fmt.Sprintf("Did you mean -o %s?", near)
	}
	return err
}

// strictGroups makes a group of commands refuse what it does not know, instead of printing its help and
// exiting 0, and every command tell too many or too few words as a usage error.
func (c *command) strictGroups(cmd *cobra.Command) {
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			err := &usageError{text: fmt.Sprintf("cannot run %q: there is no command %q", cmd.CommandPath()+" "+strings.Join(args, " "), args[0])}
			if near := manifest.Nearest(args[0], names); near != "" {
				err.hint = fmt.Sprintf("Did you mean `%s %s`?", cmd.CommandPath(), near)
			} else {
				err.hint = fmt.Sprintf("Try `%s --help`.", cmd.CommandPath())
			}
			return err
		}
	} else if cmd.Args != nil {
		check := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := c.checkOutput(cmd); err != nil {
				return err
			}
			if err := check(cmd, args); err != nil {
				return &usageError{
					text: fmt.Sprintf("cannot run %q: %s", cmd.CommandPath(), wordsProblem(cmd, args, err)),
					hint: "Usage: " + cmd.UseLine(),
				}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		c.strictGroups(sub)
	}
}

// wordsProblem says in this program's words what cobra found wrong with the number of words.
func wordsProblem(cmd *cobra.Command, args []string, err error) string {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "unknown command "): // what cobra.NoArgs says
		return fmt.Sprintf("expected nothing behind it, found %q", strings.Join(args, " "))
	case !strings.Contains(text, "arg(s)"):
		return text
	case len(args) == 0:
		for word := range strings.FieldsSeq(cmd.Use) { // the first that is no choice between words
			if word = strings.Trim(word, "(…"); word == strings.ToUpper(word) {
				return strings.ToLower(word) + " is missing"
			}
		}
	}
	return fmt.Sprintf("found %d words, more than it takes", len(args))
}

// helpWidth is how wide help is, in columns: what every terminal has.
const helpWidth = 80

// narrow has the help of a command, and of those below it, fit a terminal.
func narrow(cmd *cobra.Command) {
	cmd.Long = fill(cmd.Long, helpWidth)
	if !cmd.HasParent() {
		usage := cmd.UsageTemplate()
		for _, flags := range []string{"LocalFlags", "InheritedFlags"} {
			usage = strings.ReplaceAll(usage, flags+".FlagUsages |", fmt.Sprintf("%s.FlagUsagesWrapped %d |", flags, helpWidth))
		}
		cmd.SetUsageTemplate(usage)
	}
	for _, sub := range cmd.Commands() {
		narrow(sub)
	}
}

// fill breaks the lines of text anew, so that none is wider where it can be broken. What is indented, and where a
// paragraph ends, stays.
func fill(text string, width int) string {
	var filled, paragraph []string
	end := func() {
		line := ""
		for word := range strings.FieldsSeq(strings.Join(paragraph, " ")) {
			switch {
			case line == "":
				line = word
			case lipgloss.Width(line)+1+lipgloss.Width(word) <= width:
				line += " " + word
			default:
				filled = append(filled, line)
				line = word
			}
		}
		if line != "" {
			filled = append(filled, line)
		}
		paragraph = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			end()
			filled = append(filled, line)
			continue
		}
		paragraph = append(paragraph, line)
	}
	end()
	return strings.Join(filled, "\n")
}

// flagError names the nearest flag.
func flagError(cmd *cobra.Command, err error) error {
	usage := &usageError{text: fmt.Sprintf("cannot run %q: %v", cmd.CommandPath(), err)}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if expected := flagValues()[invalid.GetFlag().Value.Type()]; expected != "" {
			usage.text = fmt.Sprintf("cannot run %q: cannot use --%s %q: expected %s", cmd.CommandPath(), invalid.GetFlag().Name, invalid.GetValue(), expected)
		}
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if near := manifest.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			usage.hint = fmt.Sprintf("Did you mean --%s?", near)
		}
	}
	if usage.hint == "" {
		usage.hint = fmt.Sprintf("Try `%s --help`.", cmd.CommandPath())
	}
	return usage
}

// flagValues says what a flag of each type takes.
func flagValues() map[string]string {
	return map[string]string{"duration": "a duration such as 30s or 5m", "int": "a whole number", "int64": "a whole number", "bool": "true or false"}
}

// terminalWidth gives the width of stdout, and whether it is a terminal at all.
func (c *command) terminalWidth() (int, bool) {
	if c.width > 0 {
		return c.width, true
	}
	file, ok := c.sys.Stdout.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0, false
	}
	if width <= 0 { // nobody told the terminal how wide it is, as on a serial line
		width = helpWidth
	}
	return width, true
}

// config loads the configuration that this invocation goes by.
func (c *command) config() (*daemon.Config, error) {
	return daemon.FindConfig(c.configPath, c.sys.Environ)
}

// client makes a client for the daemon that this invocation talks to.
func (c *command) client() (*api.Client, error) {
	url := cmp.Or(c.url, c.sys.Getenv("ATTUNE_URL"))
	if url == "" {
		cfg, err := c.config()
		if err != nil {
			return nil, err
		}
		return api.NewSocketClient(cfg.SocketCandidates())
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	var options []api.Option
	if token != "" {
		options = append(options, api.WithToken(token))
	}
	if file := cmp.Or(c.caFile, c.sys.Getenv("ATTUNE_CA_FILE")); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("cannot read the certificates to believe: %v", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, usagef("cannot use %s: found no certificate, expected PEM", file)
		}
		options = append(options, api.WithRoots(roots))
	}
	client, err := api.NewClient(url, options...)
	if err != nil {
		return nil, &usageError{text: err.Error()}
	}
	return client, nil
}

// token is what proves who this invocation is; empty: nothing does. It is no flag, for others can read those.
func (c *command) token() (string, error) {
	file := c.tokenFile
	if file == "" {
		if token := c.sys.Getenv("ATTUNE_TOKEN"); token != "" {
			return strings.TrimSpace(token), nil
		}
		file = c.sys.Getenv("ATTUNE_TOKEN_FILE")
	}
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("cannot read the token: %v", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", usagef("cannot use the token in %s: expected one word", file)
	}
	return token, nil
}
