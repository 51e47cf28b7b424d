package cli

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

// scaffold has the files that a new pack is made of. They are templates with <% %>, since {{ }} is what
// they teach.
//
//go:embed scaffold
var scaffold embed.FS

// newPack is what a new pack is to have.
type newPack struct {
	Pack, Label string
	// actions and sensors are runtimes, rules the kinds of their triggers.
	actions, sensors, rules []string
}

// The kinds of component that can be asked for, the first the default.
var (
	newActions = []string{manifest.RuntimeShell, manifest.RuntimePython, manifest.RuntimeNode, manifest.RuntimeNative}
	newSensors = []string{manifest.RuntimeShell, manifest.RuntimePython}
	newRules   = []string{"timer", "cron", "webhook", "event"}
)

func (c *command) packNew() *cobra.Command {
	p := &newPack{}
	var directory string
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a new pack to start from; needs no daemon",
		Long: "Writes a pack that works at once and explains itself: a shell action and a rule on a timer, or\n" +
			"what the flags ask for, each as often as wanted. Nothing is ever overwritten.",
		Example: "  attune pack new demo\n  attune pack new demo --action python --sensor shell --rule event --rule cron",
		Args:    needOne("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Pack = args[0]
			if directory == "" {
				cfg, err := c.config()
				if err != nil {
					return err
				}
				directory = cfg.Packs.Directories[len(cfg.Packs.Directories)-1]
			}
			if err := p.check(); err != nil {
				return err
			}
			flags := cmd.Flags()
			if !flags.Changed("action") && !flags.Changed("sensor") && !flags.Changed("rule") {
				p.actions, p.rules = newActions[:1], newRules[:1]
			}
			return c.writePack(directory, p)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&p.actions, "action", nil, "an action: "+strings.Join(newActions, ", "))
	flags.StringSliceVar(&p.sensors, "sensor", nil, "a sensor with its trigger: "+strings.Join(newSensors, ", "))
	flags.StringSliceVar(&p.rules, "rule", nil, "a rule on: "+strings.Join(newRules, ", "))
	flags.StringVar(&p.Label, "label", "", "the name that people read (default: from NAME)")
	flags.StringVar(&directory, "directory", "", "the folder to write it into (default: the configured packs folder)")
	return cmd
}

// check refuses a name or a kind that cannot be.
func (p *newPack) check() error {
	if err := manifest.CheckPackRef(p.Pack); err != nil {
		usage := &usageError{text: fmt.Sprintf("cannot create pack %q: %v", p.Pack, err)}
		if better := manifest.NearPackRef(p.Pack); better != "" {
			usage.hint = fmt.Sprintf("Try `attune pack new %s`.", better)
		}
		return usage
	}
	for _, asked := range []struct {
		flag        string
		kinds, from []string
	}{{"action", p.actions, newActions}, {"sensor", p.sensors, newSensors}, {"rule", p.rules, newRules}} {
		for i, kind := range asked.kinds {
			if !slices.Contains(asked.from, kind) {
				usage := &usageError{text: fmt.Sprintf("cannot write a %s %q: expected %s", asked.flag, kind, strings.Join(asked.from, ", "))}
				if near := manifest.Nearest(kind, asked.from); near != "" {
					usage.hint = fmt.Sprintf("Did you mean --%s %s?", asked.flag, near)
				}
				return usage
			}
			if slices.Contains(asked.kinds[:i], kind) {
				return usagef("cannot write two %ss %q: one is enough to start from", asked.flag, kind)
			}
		}
	}
	if p.Label == "" {
		words := strings.Fields(strings.NewReplacer("_", " ", "-", " ").Replace(p.Pack))
		p.Label = strings.Join(words, " ")
		p.Label = strings.ToUpper(p.Label[:1]) + p.Label[1:]
	}
	if strings.ContainsFunc(p.Label, func(r rune) bool { return r < ' ' }) {
		return usagef("cannot use label %q: expected one line", p.Label)
	}
	return nil
}

// newFile is one file of a new pack.
type newFile struct {
	Path  string
	About string

	template   string
	data       map[string]any
	executable bool
}

// component is a name that says the kind where there are several.
func component(name, kind string, of []string) string {
	if len(of) == 1 {
		return name
	}
	return name + "_" + kind
}

var extensions = map[string]string{
	manifest.RuntimeShell: ".sh", manifest.RuntimePython: ".py", manifest.RuntimeNode: ".js", manifest.RuntimeNative: "",
}

// files gives the contents of the pack's files by their paths.
func (p *newPack) files() []newFile {
	var files []newFile
	var try []string
	add := func(path, about, template string, data map[string]any) {
		data["Pack"] = p.Pack
		files = append(files, newFile{Path: path, About: about, template: template, data: data})
	}
	script := func(kind, folder, name, runtime string) string {
		file := name + extensions[runtime]
		add(folder+"/"+file, "its script", kind+"."+runtime, map[string]any{})
		files[len(files)-1].executable = true
		return file
	}
	for _, runtime := range p.actions {
		name := component("hello", runtime, p.actions)
		add("actions/"+name+".yaml", "an action in "+runtime, "action.yaml", map[string]any{
			"Name": name, "Runtime": runtime, "Script": script("action", "actions", name, runtime),
		})
		try = append(try, fmt.Sprintf("attune run %s.%s name=Ada", p.Pack, name))
	}
	event := len(p.sensors) > 0 || slices.Contains(p.rules, "event")
	if event {
		add("triggers/disk_sampled.yaml", "a kind of event", "trigger.yaml", map[string]any{})
	}
	for _, runtime := range p.sensors {
		name := component("disk", runtime, p.sensors)
		add("sensors/"+name+".yaml", "a sensor in "+runtime, "sensor.yaml", map[string]any{
			"Name": name, "Runtime": runtime, "Script": script("sensor", "sensors", name, runtime),
		})
		try = append(try, fmt.Sprintf("attune sensor show %s.%s", p.Pack, name))
	}
	if slices.Contains(p.rules, "webhook") {
		add("triggers/called.yaml", "a trigger that others fire over HTTP", "webhook.yaml", map[string]any{"Name": "called"})
		try = append(try, fmt.Sprintf("attune trigger show %s.called", p.Pack))
	}
	names := map[string]string{"timer": "hello_often", "cron": "hello_every_morning", "webhook": "hello_caller", "event": "disk_has_something"}
	action, parameter := "core.echo", "message"
	if len(p.actions) > 0 {
		action, parameter = component("hello", p.actions[0], p.actions), "name"
	}
	for _, kind := range p.rules {
		add("rules/"+names[kind]+".yaml", "a rule on "+map[string]string{
			"timer": "a timer", "cron": "a timer that knows the calendar", "webhook": "calls from outside", "event": "an event of the pack",
		}[kind], "rule."+kind+".yaml", map[string]any{
			"Name": names[kind], "Action": action, "Parameter": parameter, "Trigger": "called", "Sensor": len(p.sensors) > 0,
		})
		switch kind {
		case "timer", "event":
			try = append(try, fmt.Sprintf("attune execution list --rule %s.%s", p.Pack, names[kind]))
		case "cron":
			try = append(try, fmt.Sprintf("attune rule show %s.%s", p.Pack, names[kind]))
		}
	}
	slices.SortFunc(files, func(a, b newFile) int { return strings.Compare(a.Path, b.Path) })
	add("README.md", "", "README.md", map[string]any{"Label": p.Label, "Files": slices.Clone(files), "Try": try})
	add("pack.yaml", "", "pack.yaml", map[string]any{
		"Label": yamlText(p.Label), "Dependencies": p.dependencies(action), "Runtimes": p.runtimes(),
	})
	return files
}

func (p *newPack) dependencies(action string) []string {
	timer := slices.Contains(p.rules, "timer") || slices.Contains(p.rules, "cron")
	if timer || len(p.rules) > 0 && strings.HasPrefix(action, "core.") {
		return []string{"core >= 1.0"}
	}
	return nil
}

func (p *newPack) runtimes() []string {
	var list []string
	for _, runtime := range slices.Concat(p.actions, p.sensors) {
		need := map[string]string{
			manifest.RuntimeShell: "shell", manifest.RuntimePython: "python3 >= 3.8", manifest.RuntimeNode: "nodejs >= 18",
		}[runtime]
		if need != "" && !slices.Contains(list, need) {
			list = append(list, need)
		}
	}
	return list
}

// yamlText quotes a text for YAML where it has to be.
func yamlText(text string) string {
	out, err := manifest.FormatYAML(text)
	if err != nil {
		return fmt.Sprintf("%q", text)
	}
	return strings.TrimSpace(string(out))
}

// render gives the content of a file.
func (f newFile) render() ([]byte, error) {
	text, err := scaffold.ReadFile("scaffold/" + f.template)
	if err != nil {
		return nil, err
	}
	t, err := template.New(f.template).Delims("<%", "%>").Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, f.data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writePack writes the pack beside its place and moves it there as a whole, so that a daemon that watches
// the folder never sees a part of it.
func (c *command) writePack(directory string, p *newPack) error {
	target := filepath.Join(directory, p.Pack)
	fail := func(err error) error { return fmt.Errorf("cannot create pack %q: %w", p.Pack, err) }
	if _, err := os.Lstat(target); err == nil {
		return fail(fmt.Errorf("%s is there already, and is never overwritten", target))
	}
	if err := os.MkdirAll(directory, 0o755); err != nil { //nolint:gosec // a packs folder is for everybody to read
		return fail(err)
	}
	beside, err := os.MkdirTemp(directory, ".new-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(beside)
	if err := os.Chmod(beside, 0o755); err != nil { //nolint:gosec // as above
		return fail(err)
	}
	var paths []string
	for _, f := range p.files() {
		content, err := f.render()
		if err != nil {
			return fail(err)
		}
		mode := fs.FileMode(0o644)
		if f.executable {
			mode = 0o755
		}
		file := filepath.Join(beside, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // as above
			return fail(err)
		}
		if err := os.WriteFile(file, content, mode); err != nil {
			return fail(err)
		}
		paths = append(paths, f.Path)
	}
	if err := moveInto(beside, target); err != nil {
		return fail(err)
	}
	slices.Sort(paths)
	report := struct {
		Ref       string   `json:"ref"`
		Directory string   `json:"directory"`
		Files     []string `json:"files"`
	}{p.Pack, target, paths}
	return c.print(report, func(w io.Writer) {
		fmt.Fprintf(w, "Created pack %s:\n\n", p.Pack)
		for _, path := range paths {
			fmt.Fprintf(w, "  %s\n", filepath.Join(target, path))
		}
		fmt.Fprintf(w, "\nEvery file explains itself. Check the pack with `attune pack lint %s`; a daemon that\nwatches this folder takes it up at once. %s has things to try.\n",
			target, filepath.Join(target, "README.md"))
	})
}

// moveInto renames a folder to a name that must not be taken, be it by an empty folder.
func moveInto(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system cannot promise it; the name was free a moment ago.
		return os.Rename(from, to)
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s is there already, and is never overwritten", to)
	}
	return err
}
