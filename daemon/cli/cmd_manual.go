package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manualCommand writes the man pages. It is for who makes packages, and hidden from the others.
func (c *command) manualCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "manual DIRECTORY",
		Short:   "Write the man pages into a folder",
		Example: "  attune manual /usr/local/share/man/man1",
		Hidden:  true,
		Args:    needOne("folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			m := manual{version: c.sys.Version}
			return m.write(args[0], cmd.Root())
		},
	}
}

// manual turns commands into man pages, one each.
type manual struct{ version Version }

func (m manual) write(dir string, cmd *cobra.Command) error {
	var page bytes.Buffer
	m.page(&page, cmd)
	if err := os.WriteFile(filepath.Join(dir, pageName(cmd)+".1"), page.Bytes(), 0o644); err != nil {
		return err
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			if err := m.write(dir, sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// pageName is the name of a command's page: attune-pack-list.
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// page writes the page of one command.
func (m manual) page(w io.Writer, cmd *cobra.Command) {
	date := m.version.Date
	if at, err := time.Parse(time.RFC3339, date); err == nil {
		date = at.UTC().Format(time.DateOnly)
	}
	fmt.Fprintf(w, ".TH %s 1 %s %s %s\n", quoted(strings.ToUpper(pageName(cmd))), quoted(date), quoted("attune "+m.version.Version), quoted("Attune"))
	fmt.Fprint(w, ".nh\n.ad l\n")
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", roff(pageName(cmd)), roff(lowerFirst(cmd.Short)))
	fmt.Fprint(w, ".SH SYNOPSIS\n")
	usage := strings.TrimSpace(strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath()))
	if cmd.HasAvailableSubCommands() {
		usage = "COMMAND [flags]"
	}
	fmt.Fprintf(w, ".B %s\n%s\n", roff(cmd.CommandPath()), roff(usage))
	fmt.Fprint(w, ".SH DESCRIPTION\n")
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	paragraphs(w, text)
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(w, ".PP\nAlso called %s.\n", roff(strings.Join(cmd.Aliases, ", ")))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprint(w, ".SH COMMANDS\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(w, ".TP\n.BR %s (1)\n%s.\n", roff(pageName(sub)), roff(sub.Short))
			}
		}
	}
	flags(w, "OPTIONS", cmd.NonInheritedFlags())
	flags(w, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprint(w, ".SH EXAMPLES\n.nf\n")
		for line := range strings.SplitSeq(strings.TrimRight(cmd.Example, "\n"), "\n") {
			fmt.Fprintln(w, roffLine(strings.TrimPrefix(line, "  ")))
		}
		fmt.Fprint(w, ".fi\n")
	}
	exits(w, cmd)
	if !cmd.HasParent() {
		surroundings(w)
	}
	related(w, cmd)
}

// flags writes a section of flags, if there are any.
func flags(w io.Writer, title string, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", title)
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(w, ".TP\n.B %s", roff(name))
		if kind != "" {
			fmt.Fprintf(w, " \\fI%s\\fR", roff(kind))
		}
		fmt.Fprintf(w, "\n%s\n", roffLine(strings.ToUpper(usage[:1])+usage[1:]+"."))
	})
}

// exits writes what a command's exit codes mean.
func exits(w io.Writer, cmd *cobra.Command) {
	if cmd.HasAvailableSubCommands() && cmd.HasParent() {
		return
	}
	fmt.Fprint(w, ".SH EXIT STATUS\n")
	rows := [][2]string{
		{"0", "Done."},
		{"1", "What was asked for failed, or something was found."},
		{"2", "The command line or the configuration is wrong."},
		{"3", "There is no daemon to talk to."},
	}
	if cmd.Name() == "run" {
		rows = [][2]string{
			{"the action's own", "It ran."},
			{"124", "It was stopped by its timeout."},
			{"125", "It could not be run: refused, lost, or no daemon."},
			{"130", "It was interrupted."},
			{"128+n", "It was ended by signal n."},
		}
	}
	for _, row := range rows {
		fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(row[0]), roffLine(row[1]))
	}
}

// surroundings writes what the main page tells for all commands.
func surroundings(w io.Writer) {
	fmt.Fprint(w, ".SH ENVIRONMENT\n")
	for _, row := range [][2]string{
		{"ATTUNE_CONFIG", "The configuration file."},
		{"ATTUNE_URL", "The daemon to talk to, instead of the one at the unix socket."},
		{"ATTUNE_SECTION_KEY", "Each key of the configuration, such as ATTUNE_HTTP_LISTEN; wins over the file."},
		{"NO_COLOR", "If set, nothing is printed in colour."},
	} {
		fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(row[0]), roffLine(row[1]))
	}
	fmt.Fprint(w, ".SH FILES\n")
	for _, row := range [][2]string{
		{"/etc/attune/attune.toml", "The configuration. Each key is explained in it."},
		{"/etc/attune/packs", "The operator's packs."},
		{"/usr/share/attune/packs", "The packs that come with Attune."},
		{"/var/lib/attune", "What outlives a restart: the private database, applied revisions, the packs' data, the key of secret parameters."},
		{"/run/attune/attune.sock", "The socket that commands use; for root and the group attune."},
	} {
		fmt.Fprintf(w, ".TP\n.I %s\n%s\n", roff(row[0]), roffLine(row[1]))
	}
}

// related names the pages above and beside a command's.
func related(w io.Writer, cmd *cobra.Command) {
	var pages []string
	if cmd.HasParent() {
		pages = append(pages, fmt.Sprintf(".BR %s (1)", roff(pageName(cmd.Parent()))))
		for _, sibling := range cmd.Parent().Commands() {
			if sibling != cmd && sibling.IsAvailableCommand() && cmd.Parent().HasParent() {
				pages = append(pages, fmt.Sprintf(".BR %s (1)", roff(pageName(sibling))))
			}
		}
	} else {
		pages = []string{".BR systemctl (1)", ".BR psql (1)"}
	}
	fmt.Fprintf(w, ".SH SEE ALSO\n%s\n", strings.Join(pages, " ,\n"))
}

// paragraphs writes text; an indented block stays as it is.
func paragraphs(w io.Writer, text string) {
	for i, block := range strings.Split(text, "\n\n") {
		if i > 0 {
			fmt.Fprintln(w, ".PP")
		}
		verbatim := strings.HasPrefix(block, "  ")
		if verbatim {
			fmt.Fprintln(w, ".nf")
		}
		for line := range strings.SplitSeq(block, "\n") {
			fmt.Fprintln(w, roffLine(strings.TrimPrefix(line, "  ")))
		}
		if verbatim {
			fmt.Fprintln(w, ".fi")
		}
	}
}

// roff makes text safe in the middle of a line: what it would take for its own is escaped, and hyphens
// stay those that can be copied into a shell.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "·", `\[u00B7]`, "×", `\[u00D7]`).Replace(text)
}

// roffLine makes a whole line safe: at its beginning a dot or an apostrophe would be a request.
func roffLine(text string) string {
	text = roff(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}

// quoted makes one argument of a request.
func quoted(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `\(dq`) + `"` }

func lowerFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToLower(text[:1]) + text[1:]
}
