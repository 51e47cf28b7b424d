package daemon

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// Banner prints what a person wants to see when the daemon is ready: what is loaded and what is not,
// where everything is, and what to try first.
func Banner(w io.Writer, r Ready) {
	fmt.Fprintf(w, "\nAttune %s is ready after %s.\n\n", r.Version, r.Took.Round(time.Millisecond))
	width := len("pack")
	for _, p := range r.Packs {
		width = max(width, len(p.Ref))
	}
	findings := manifest.Errors{}
	for _, p := range r.Packs {
		c := p.Components
		fmt.Fprintf(w, "  %-*s  %-8s  %s\n", width, p.Ref, p.Version, counts(c.Actions, "action", c.Triggers, "trigger", c.Sensors, "sensor", c.Rules, "rule"))
		findings = append(findings, p.Errors...)
	}
	if len(r.Packs) == 0 {
		fmt.Fprintln(w, "  no pack is loaded yet")
	}
	if len(findings) > 0 {
		fmt.Fprintf(w, "\n%s\n", indent(findings.Error()))
	}
	fmt.Fprintln(w)
	for _, line := range [][2]string{
		{"socket", r.Socket},
		{"metrics", withPath(r.URL, "/metrics")},
		{"state", r.State},
		{"database", r.Database},
		{"config", r.ConfigFile},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "  %-8s  %s\n", line[0], line[1])
		}
	}
	fmt.Fprint(w, "\nThree things to try, in another terminal:\n\n")
	for _, line := range [][2]string{
		{r.Command + " run core.echo message=hello", "run an action"},
		{r.Command + " status", "see everything at once"},
		{r.Command + " execution list", "see what the rules made happen"},
	} {
		fmt.Fprintf(w, "  %-*s  %s\n", len(r.Command)+len(" run core.echo message=hello"), line[0], line[1])
	}
	fmt.Fprint(w, "\nEdit a file of a pack, and the change is live when it is saved. Ctrl-C stops the daemon.\n\n")
}

// commandName is what to type to run this binary: its bare name where the shell finds it, else its
// path from the working directory.
func commandName(binary, path, directory string) string {
	folder, name := filepath.Split(binary)
	if slices.Contains(filepath.SplitList(path), filepath.Clean(folder)) {
		return name
	}
	if relative, err := filepath.Rel(directory, binary); err == nil && filepath.IsLocal(relative) {
		return "./" + relative
	}
	return binary
}

// counts lists how many there are of each, without those of which there are none.
func counts(pairs ...any) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		n, noun := pairs[i].(int), pairs[i+1].(string)
		switch {
		case n == 1:
			parts = append(parts, "1 "+noun)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, noun))
		}
	}
	if len(parts) == 0 {
		return "nothing in force"
	}
	return strings.Join(parts, ", ")
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func withPath(url, path string) string {
	if url == "" {
		return ""
	}
	return url + path
}
