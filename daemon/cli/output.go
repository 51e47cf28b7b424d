package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/attune-io/attune/reconcile/manifest"
)

// The ways to print. Lists have all of them, everything else table, json and yaml.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputJSON  = "json"
	outputYAML  = "yaml"
	outputName  = "name"
)

// The few styles there are: colour says how something is, never what it is.
const (
	styleGood = "2" // ANSI green
	styleBad  = "1" // ANSI red
	styleWarn = "3" // ANSI yellow
	styleBusy = "6" // ANSI cyan
	styleDim  = "8" // ANSI bright black
)

// paint colours text where stdout is a terminal and nobody asked for none.
func (c *command) paint(style, text string) string {
	if style == "" || text == "" || !c.colour() {
		return text
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(style)).Render(text)
}

func (c *command) colour() bool {
	if c.noColor || c.sys.Getenv("NO_COLOR") != "" || c.sys.Getenv("TERM") == "dumb" {
		return false
	}
	file, ok := c.sys.Stdout.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// print writes a value as JSON or YAML, or by human where people read it.
func (c *command) print(v any, human func(w io.Writer)) error {
	switch c.output {
	case outputJSON:
		enc := json.NewEncoder(c.sys.Stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case outputYAML:
		text, err := manifest.FormatYAML(v)
		if err != nil {
			return err
		}
		_, err = c.sys.Stdout.Write(text)
		return err
	}
	human(c.sys.Stdout)
	return nil
}

// cell is one field of a table.
type cell struct {
	text  string
	style string
}

func plain(text string) cell { return cell{text: text} }

// status paints a state so that one can scan a column of them.
func status(text string) cell {
	style := ""
	switch text {
	case "succeeded", "running", "yes", "matched", "ok":
		style = styleGood
	case "failed", "lost", "timed_out", "unkillable", "error":
		style = styleBad
	case "backoff", "cancelled", "stopping", "warning", "degraded":
		style = styleWarn
	case "requested", "scheduled", "starting", "waiting":
		style = styleBusy
	case "idle", "stopped", "no":
		style = styleDim
	}
	return cell{text, style}
}

// table prints rows in aligned columns. On a terminal columns are cut until a row fits, so that it
// is always a line; elsewhere nothing is cut, since a program may be reading.
func (c *command) table(w io.Writer, head []string, rows [][]cell) {
	t := tableWriter{command: c, head: head}
	t.write(w, rows)
}

// tableWriter prints a table in one go or in several, with one head above all.
type tableWriter struct {
	*command
	head   []string
	widths []int // nil: nothing is out yet
}

// write prints rows. Columns are as wide as what they held so far.
func (t *tableWriter) write(w io.Writer, rows [][]cell) {
	if len(rows) == 0 {
		return
	}
	if t.widths == nil {
		header := make([]cell, len(t.head))
		for i, h := range t.head {
			header[i] = cell{strings.ToUpper(h), styleDim}
		}
		rows = append([][]cell{header}, rows...)
		t.widths = make([]int, len(t.head))
	}
	for _, row := range rows {
		for i, f := range row {
			t.widths[i] = max(t.widths[i], lipgloss.Width(f.text))
		}
	}
	widths := t.widths
	last := len(t.head) - 1
	columns, isTerminal := t.terminalWidth()
	if isTerminal {
		widths = squeezed(widths, columns)
	}
	for _, row := range rows {
		var line strings.Builder
		for i, f := range row {
			text := oneLine(f.text)
			if isTerminal {
				text = cut(text, widths[i])
			}
			line.WriteString(t.paint(f.style, text))
			if i != last {
				line.WriteString(strings.Repeat(" ", max(widths[i]-lipgloss.Width(text), 0)+columnGap))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// columnGap is what stands between two columns, and narrowest is a column below which it says nothing.
const (
	columnGap = 2
	narrowest = 6
)

// squeezed makes columns narrower until their sum fits: the last, which holds what is longest, and then the widest.
func squeezed(widths []int, room int) []int {
	widths = slices.Clone(widths)
	over := columnGap*(len(widths)-1) - room
	for _, width := range widths {
		over += width
	}
	last := len(widths) - 1
	for least := 2 * narrowest; over > 0; over-- {
		at := last
		if widths[last] <= least {
			at = 0
			for i, width := range widths {
				if width > widths[at] {
					at = i
				}
			}
		}
		if widths[at] <= narrowest {
			break // better a long line
		}
		widths[at]--
	}
	return widths
}

// fields prints "name  value" lines, the names aligned. Empty values are left out.
func (c *command) fields(w io.Writer, pairs [][2]string) {
	width := 0
	for _, p := range pairs {
		if p[1] != "" {
			width = max(width, lipgloss.Width(p[0]))
		}
	}
	for _, p := range pairs {
		if p[1] == "" {
			continue
		}
		name := p[0] + strings.Repeat(" ", width-lipgloss.Width(p[0]))
		fmt.Fprintf(w, "%s  %s\n", c.paint(styleDim, name), strings.ReplaceAll(p[1], "\n", "\n"+strings.Repeat(" ", width+2)))
	}
}

// oneLine keeps a value from breaking its row.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' {
			return ' '
		}
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
}

// cut shortens text to a width, with an ellipsis.
func cut(text string, width int) string {
	if lipgloss.Width(text) <= width {
		return text
	}
	var out strings.Builder
	used := 0
	for _, r := range text {
		w := lipgloss.Width(string(r))
		if used+w > width-1 {
			break
		}
		out.WriteRune(r)
		used += w
	}
	return out.String() + "…"
}

// age is how long ago something was, in one unit: "3s", "12m", "5h", "9d".
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

func agePtr(now time.Time, t *time.Time) string {
	if t == nil {
		return "-"
	}
	return age(now, *t)
}

// span prints a duration in one unit that people scan.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "in " + span(-d)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}

// bytesText prints a size in binary units.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < len("KMGT")-1 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[exponent])
}
