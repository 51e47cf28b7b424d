package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	// barPeriod is how often a bar is drawn anew, linePeriod how often a line is printed where there is no
	// terminal to draw on.
	barPeriod  = 200 * time.Millisecond
	linePeriod = 10 * time.Second

	// barWidth is that of the bar alone, in cells.
	barWidth = 24

	// rateWindow is what the rate is taken over: short enough to follow, long enough to read.
	rateWindow = 5 * time.Second
)

// gauge shows on stderr how far many have come: as a bar on a terminal, else as plain lines.
type gauge struct {
	w     io.Writer
	began time.Time
	bar   bool
	width int // of the terminal
	drawn bool

	marks []gaugeMark // of the last seconds
	said  time.Time
}

type gaugeMark struct {
	at    time.Time
	ended int
}

func (c *command) newGauge(began time.Time) *gauge {
	g := &gauge{w: c.sys.Stderr, began: began, said: began}
	if file, ok := c.sys.Stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) && c.sys.Getenv("TERM") != "dumb" {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil {
			g.bar, g.width = true, width
		}
	}
	return g
}

func (g *gauge) period() time.Duration {
	if g.bar {
		return barPeriod
	}
	return time.Second
}

// show tells the state: known says that no more than total will come.
func (g *gauge) show(now time.Time, ended, total, failed int, known bool) {
	g.mark(now, ended)
	if !g.bar {
		if now.Sub(g.said) >= linePeriod {
			g.said = now
			fmt.Fprintln(g.w, g.text(now, ended, total, failed, known))
		}
		return
	}
	done := 0
	if total > 0 {
		done = min(barWidth*ended/total, barWidth)
	}
	line := strings.Repeat("█", done) + strings.Repeat("░", barWidth-done) + " " + g.text(now, ended, total, failed, known)
	// Back to the start of the line, and nothing behind it stays.
	fmt.Fprintf(g.w, "\r%s\x1b[K", cut(line, max(g.width-1, 1)))
	g.drawn = true
}

func (g *gauge) text(now time.Time, ended, total, failed int, known bool) string {
	parts := []string{fmt.Sprintf("%d of %d", ended, total)}
	if !known {
		parts[0] += " so far"
	} else if total > 0 {
		parts[0] += fmt.Sprintf(" (%d%%)", 100*ended/total)
	}
	rate := g.rate(now)
	if rate > 0 {
		parts = append(parts, fmt.Sprintf("%.*f/s", digits(rate), rate))
	}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", failed))
	}
	if known && rate > 0 && ended < total {
		left := time.Duration(float64(total-ended) / rate * float64(time.Second))
		parts = append(parts, span(left.Round(time.Second))+" left")
	}
	return strings.Join(parts, ", ")
}

// digits are those behind the point that a rate is worth.
func digits(rate float64) int {
	const slow = 10
	if rate < slow {
		return 1
	}
	return 0
}

// mark remembers the state, and forgets what is no longer recent.
func (g *gauge) mark(now time.Time, ended int) {
	g.marks = append(g.marks, gaugeMark{now, ended})
	for len(g.marks) > 2 && now.Sub(g.marks[1].at) >= rateWindow {
		g.marks = g.marks[1:]
	}
}

// rate is how many ended a second, lately.
func (g *gauge) rate(now time.Time) float64 {
	first := gaugeMark{at: g.began}
	if len(g.marks) > 0 && now.Sub(g.marks[0].at) >= rateWindow {
		first = g.marks[0]
	}
	passed := now.Sub(first.at).Seconds()
	if len(g.marks) == 0 || passed <= 0 {
		return 0
	}
	return float64(g.marks[len(g.marks)-1].ended-first.ended) / passed
}

// clear takes the bar away.
func (g *gauge) clear() {
	if g.drawn {
		fmt.Fprint(g.w, "\r\x1b[K")
	}
}
