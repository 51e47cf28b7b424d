package cli

import (
	"fmt"
	"os"

	"golang.org/x/term"
)

// progress is one line on a terminal's stderr that is written over. Elsewhere it says nothing: a file
// that a program reads later needs no line that moves.
type progress struct {
	*command
	live  bool
	shown bool
}

func (c *command) newProgress() *progress {
	file, ok := c.sys.Stderr.(*os.File)
	return &progress{command: c, live: ok && term.IsTerminal(int(file.Fd()))}
}

func (p *progress) tell(format string, args ...any) {
	if p.live {
		fmt.Fprintf(p.sys.Stderr, "\r\x1b[K"+format, args...)
		p.shown = true
	}
}

// clear takes the line away, for what is to stay.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.sys.Stderr, "\r\x1b[K")
		p.shown = false
	}
}
