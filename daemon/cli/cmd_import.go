package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/reconcile/manifest"
)

// importedTimeout is what imported actions may take: cron sets no end, and an action has to have one.
const importedTimeout = "24h"

func (c *command) importCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Turn what other schedulers run into packs; needs no daemon"}
	cmd.AddCommand(c.importCron(), c.importTimer())
	return cmd
}

func (c *command) importCron() *cobra.Command {
	var pack, directory, timezone string
	var system bool
	cmd := &cobra.Command{
		Use:   "cron FILE",
		Short: "Turn a crontab into a pack of rules and actions",
		Long: "Writes a pack that does what a crontab does: a rule on core.crontimer and an action for each line.\n" +
			"Environment lines, CRON_TZ, SHELL, nicknames such as @daily, and % are understood; the user column of\n" +
			"/etc/crontab and /etc/cron.d becomes run_as, and --user-column says that other files have one. FILE\n" +
			"may be - for stdin.\n\n" +
			"What cannot be translated (@reboot, MAILTO) is told with its line, and the exit code is then 1. Lines\n" +
			"whose time has passed while the daemon was down are not made up for, as cron does not.",
		Example: "  crontab -l | attune import cron - --pack mine\n  attune import cron /etc/cron.d/backup",
		Args:    needOne("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("user-column") {
				folder := filepath.Dir(args[0])
				system = args[0] == "/etc/crontab" || folder == "/etc/cron.d"
			}
			text, err := c.readInput(args[0])
			if err != nil {
				return usagef("cannot read the crontab: %v", err)
			}
			name := filepath.Base(args[0])
			if args[0] == "-" {
				name = ""
			}
			if err := c.fillImport(&pack, &directory, &timezone, name, "cron"); err != nil {
				return err
			}
			jobs, left := readCrontab(args[0], text, system, timezone)
			files, names, err := importedFiles(pack, args[0], jobs)
			if err != nil {
				return err
			}
			return c.writeImported(directory, pack, files, names, left)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&pack, "pack", "", "the pack's name (default: the file's)")
	flags.StringVar(&directory, "directory", "", "the folder to write it into (default: the configured packs folder)")
	flags.StringVar(&timezone, "timezone", "", "where the times are meant (default: this machine's zone)")
	flags.BoolVar(&system, "user-column", false, "lines have a user before the command, as in /etc/crontab (default: by the file's place)")
	return cmd
}

// fillImport fills in what nobody said of an import: the pack's name, the folder to write it into and the time
// zone.
func (c *command) fillImport(pack, directory, timezone *string, name, otherwise string) error {
	if *pack == "" {
		if *pack = manifest.NearPackRef(name); *pack == "" {
			*pack = otherwise
		}
	}
	if err := manifest.CheckPackRef(*pack); err != nil {
		return usagef("cannot call the pack %q: %v", *pack, err)
	}
	if *timezone == "" {
		*timezone = localZone(c.sys.Getenv)
	}
	if _, err := time.LoadLocation(*timezone); err != nil {
		return usagef("cannot use time zone %q: expected a name such as Europe/Berlin", *timezone)
	}
	if *directory == "" {
		cfg, err := c.config()
		if err != nil {
			return err
		}
		*directory = cfg.Packs.Directories[len(cfg.Packs.Directories)-1]
	}
	return nil
}

// maxImported bounds a file to import, in bytes: what is longer is no crontab.
const maxImported = 1 << 20

func (c *command) readInput(name string) (string, error) {
	in := c.sys.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxImported+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxImported:
		return "", errors.New("it is longer than 1MiB")
	case bytes.IndexByte(text, 0) >= 0:
		return "", errors.New("it is no text")
	}
	return string(text), nil
}

// localZone is the name of the machine's time zone, as far as it says one.
func localZone(getenv func(string) string) string {
	if zone := strings.TrimPrefix(getenv("TZ"), ":"); zone != "" {
		return zone
	}
	if target, err := filepath.EvalSymlinks("/etc/localtime"); err == nil {
		if _, zone, ok := strings.Cut(target, "/zoneinfo/"); ok {
			return zone
		}
	}
	return "UTC"
}

// imported is what became of a file.
type imported struct {
	Ref           string          `json:"ref"`
	Directory     string          `json:"directory"`
	Rules         []string        `json:"rules"`
	NotTranslated []notTranslated `json:"not_translated"`
}

// writeImported writes the pack and tells what is in it and what is not.
func (c *command) writeImported(directory, pack string, files map[string][]byte, names []string, left []notTranslated) error {
	report := imported{Ref: pack, Directory: filepath.Join(directory, pack), Rules: []string{}, NotTranslated: left}
	if left == nil {
		report.NotTranslated = []notTranslated{}
	}
	for _, name := range names {
		report.Rules = append(report.Rules, pack+"."+name)
	}
	if len(names) > 0 {
		if err := writeFolder(directory, pack, files); err != nil {
			return fmt.Errorf("cannot import into pack %q: %w", pack, err)
		}
	}
	err := c.print(report, func(w io.Writer) {
		if len(names) == 0 {
			fmt.Fprintln(w, "Nothing could be translated: nothing is written.")
			return
		}
		fmt.Fprintf(w, "Created pack %s in %s, with %s.\n", pack, report.Directory, count(len(names), "rule"))
	})
	for _, l := range left {
		fmt.Fprintf(c.sys.Stderr, "%s:%d: not translated: %s\n  %s\n", l.File, l.Line, l.Why, oneLine(l.Text))
	}
	if err == nil && len(left) > 0 {
		return &exitError{exitFailed}
	}
	return err
}

// importedFiles gives the contents of the pack's files by their paths, and the rules' names.
func importedFiles(pack, source string, jobs []cronJob) (map[string][]byte, []string, error) {
	files := map[string][]byte{}
	add := func(path string, v any) error {
		text, err := manifest.FormatYAML(v)
		files[path] = text
		return err
	}
	errs := []error{add("pack.yaml", map[string]any{
		"ref": pack, "label": pack, "version": "1.0.0", "description": "Imported from " + oneLine(source) + ".",
		"dependencies": []string{"core >= 1.0"}, "runtime_deps": []string{"shell"},
	})}
	taken := map[string]bool{}
	var names []string
	for i := range jobs {
		j := &jobs[i]
		name := cronName(j.command, taken)
		names = append(names, name)
		about := fmt.Sprintf("Line %d: %s", j.line, oneLine(j.text))
		action := map[string]any{
			"name": name, "description": about, "runner_type": j.shell, "entry_point": name + ".sh", "timeout": importedTimeout,
		}
		if j.user != "" {
			action["run_as"] = j.user
		}
		errs = append(errs, add("actions/"+name+".yaml", action), add("rules/"+name+".yaml", map[string]any{
			"name": name, "description": about,
			"trigger": map[string]any{"ref": "core.crontimer", "parameters": map[string]any{
				"expression": j.schedule, "timezone": j.timezone, "misfire": "none",
			}},
			"action": map[string]any{"ref": pack + "." + name},
		}))
		files["actions/"+name+".sh"] = []byte(j.script())
	}
	return files, names, errors.Join(errs...)
}

// writeFolder writes a pack beside its place and moves it there as a whole; nothing is overwritten.
func writeFolder(directory, pack string, files map[string][]byte) error {
	target := filepath.Join(directory, pack)
	if _, err := os.Lstat(target); err == nil {
		return fmt.Errorf("%s is there already, and is never overwritten", target)
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	beside, err := os.MkdirTemp(directory, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)
	if err := os.Chmod(beside, 0o755); err != nil {
		return err
	}
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		file := filepath.Join(beside, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, files[path], 0o644); err != nil {
			return err
		}
	}
	return moveInto(beside, target)
}
