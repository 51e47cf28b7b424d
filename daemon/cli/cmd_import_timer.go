package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// unitFolders are where systemd looks for units, in its order.
func unitFolders() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// timersInstalled are the names of systemd's timers that begin like this.
func timersInstalled(typed string) []string {
	var names []string
	for _, folder := range unitFolders() {
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue // most machines lack some
		}
		for _, e := range entries {
			if name := e.Name(); filepath.Ext(name) == ".timer" && strings.HasPrefix(name, typed) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *command) importTimer() *cobra.Command {
	var pack, directory, timezone string
	cmd := &cobra.Command{
		Use:   "systemd-timer UNIT",
		Short: "Turn a timer of systemd's, and its service, into a pack",
		Long: "Writes a pack that does what a timer unit and its service do: a rule for each OnCalendar and\n" +
			"OnUnitActiveSec, and one action with the commands, environment, user and folder of the service. UNIT is a\n" +
			"file, or the name of a unit that is installed; drop-ins are read, too. Persistent=true makes up for the\n" +
			"newest run that was missed, and a run that still goes on is not started a second time, as with systemd.\n\n" +
			"What cannot be translated (OnBootSec alone, specifiers, sandboxing) is told with its file and line, and the\n" +
			"exit code is then 1; where commands, environment or user are not whole, the rules are written switched off.\n" +
			"Switch the timer off when the pack is in force: systemctl disable --now UNIT.",
		Example: "  attune import systemd-timer backup.timer\n  attune import systemd-timer ./backup.timer --pack backup --timezone UTC",
		Args:    needOne("unit"),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if filepath.Ext(name) == "" {
				name += ".timer"
			}
			if filepath.Ext(name) != ".timer" {
				return usagef("cannot import %s: expected a timer, such as backup.timer", args[0])
			}
			timer, left, err := c.readUnits(name)
			if err != nil {
				return usagef("cannot read the timer: %v", err)
			}
			serviceName := strings.TrimSuffix(name, ".timer") + ".service"
			for _, s := range timer {
				if s.section == "Timer" && s.key == "Unit" && s.value != "" {
					if serviceName = s.value; strings.Contains(name, "/") {
						serviceName = filepath.Join(filepath.Dir(name), s.value)
					}
				}
			}
			service, more, err := c.readUnits(serviceName)
			if err != nil {
				return usagef("cannot read the service of %s: %v", name, err)
			}
			base := strings.TrimSuffix(filepath.Base(name), ".timer")
			if err := c.fillImport(&pack, &directory, &timezone, base, "timer"); err != nil {
				return err
			}
			u := translateTimer(timer, service, timezone)
			left = slices.Concat(left, more, u.left)
			if len(u.commands) == 0 || len(u.triggers) == 0 {
				if len(left) == 0 {
					left = []notTranslated{{File: name, Line: 1, Text: name, Why: "there is no command, or no time, in it"}}
				}
				return c.writeImported(directory, pack, nil, nil, left)
			}
			files, names, err := u.files(pack, filepath.Base(name))
			if err != nil {
				return err
			}
			err = c.writeImported(directory, pack, files, names, left)
			if u.isPart {
				fmt.Fprintf(c.sys.Stderr, "The rules say `enabled: false`, because part of what %s does is missing: complete %s, then take that line out.\n",
					filepath.Base(serviceName), filepath.Join(directory, pack, "actions", pack+".sh"))
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&pack, "pack", "", "the pack's name (default: the unit's)")
	flags.StringVar(&directory, "directory", "", "the folder to write it into (default: the configured packs folder)")
	flags.StringVar(&timezone, "timezone", "", "where the times are meant that name no zone (default: this machine's zone)")
	return cmd
}

// readUnits reads a unit with its drop-ins: the file, or, for a name without a folder that is no file here, the
// installed one.
func (c *command) readUnits(name string) (settings []setting, left []notTranslated, err error) {
	path := name
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/") {
		for _, folder := range unitFolders() {
			if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
				path = filepath.Join(folder, name)
				break
			}
		}
	}
	parts := []string{path}
	folders := []string{filepath.Dir(path)}
	if path != name {
		folders = unitFolders()
	}
	for _, folder := range folders {
		drop, err := filepath.Glob(filepath.Join(folder, filepath.Base(path)+".d", "*.conf"))
		if err != nil {
			return nil, nil, err
		}
		parts = append(parts, drop...)
	}
	for _, part := range parts {
		text, err := c.readInput(part)
		if err != nil {
			return nil, nil, err
		}
		more, odd := readUnit(part, text)
		settings, left = append(settings, more...), append(left, odd...)
	}
	return settings, left, nil
}
