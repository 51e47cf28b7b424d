package cli

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/attune-io/attune/daemon/api"
)

// topList is one of the lists that a screen can show.
type topList int

const (
	topActive topList = iota
	topEnded
	topSensors
	topFailures
	topErrors
	topLists // how many there are
)

func (l topList) title() string {
	return [...]string{"queue", "executions", "sensors", "failures", "errors"}[l]
}

// topLine is one line of a list, and what can be done with it.
type topLine struct {
	key       string // tells it from others while the list changes
	cells     []cell
	execution int64  // 0: it is none
	isEnded   bool   // of an execution
	sensor    string // empty: it is none
	text      string // its inside, where nobody needs to be asked
}

// top is the screen of `attune top`. It changes by messages alone, so that a test can send them.
type top struct {
	*command
	daemon *topDaemon

	width, height int
	now           time.Time
	data          topData // the last that the daemon gave
	lost          error   // why it gives none now; nil: it does
	lostAt        time.Time
	seen          bool // it gave some

	list   topList
	chosen [topLists]string // key of the line under the cursor, by list
	first  int              // line that is drawn first
	detail *topDetail       // what is looked inside; nil: nothing
	scroll int              // of the detail

	// question waits for y; yes does it then.
	question string
	yes      tea.Cmd
	said     string // what became of the last order
	wentBad  bool
}

func newTop(c *command, daemon *topDaemon) *top {
	const width, height = 80, 24 // until the terminal says
	return &top{command: c, daemon: daemon, width: width, height: height, now: time.Now()}
}

// Init begins to ask.
func (t *top) Init() tea.Cmd { return t.daemon.look }

// Update takes one message.
func (t *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = msg.Width, msg.Height
	case topData:
		t.take(msg)
		return t, tea.Tick(topPeriod, func(at time.Time) tea.Msg { return topTick(at) })
	case topTick:
		t.now = time.Time(msg)
		return t, tea.Batch(t.daemon.look, t.lookInside())
	case topDetail:
		if t.detail != nil && t.detail.of == msg.of {
			t.detail = &msg
		}
	case topDone:
		t.said, t.wentBad = msg.text, msg.err != nil
		if msg.err != nil {
			t.said = msg.err.Error()
		}
	case tea.KeyPressMsg:
		return t, t.press(msg.String())
	}
	return t, nil
}

// take replaces what is shown; what a lost daemon said last stays.
func (t *top) take(data topData) {
	t.now = time.Now()
	if data.err == nil {
		t.data, t.seen, t.lost = data, true, nil
		return
	}
	if t.lost == nil {
		t.lostAt = t.now
	}
	t.lost = data.err
}

// lookInside asks again for what is looked inside.
func (t *top) lookInside() tea.Cmd {
	if t.detail == nil {
		return nil
	}
	for _, line := range t.lines() {
		if line.key == t.detail.of && line.text == "" {
			return t.daemon.inside(t.command, &line)
		}
	}
	return nil
}

// press does what a key is for.
func (t *top) press(key string) tea.Cmd {
	if t.question != "" {
		yes := t.yes
		t.question, t.yes = "", nil
		if key == "y" {
			return yes
		}
		t.said, t.wentBad = "nothing was done", false
		return nil
	}
	t.said = ""
	switch key {
	case "q", "ctrl+c":
		return tea.Quit
	case "esc", "backspace", "left", "h":
		t.detail = nil
	case "tab", "shift+tab", "1", "2", "3", "4", "5":
		t.detail, t.first = nil, 0
		switch key {
		case "tab":
			t.list = (t.list + 1) % topLists
		case "shift+tab":
			t.list = (t.list + topLists - 1) % topLists
		default:
			t.list = topList(key[0] - '1')
		}
	case "up", "k":
		t.move(-1)
	case "down", "j":
		t.move(1)
	case "pgup":
		t.move(-t.room())
	case "pgdown", "space":
		t.move(t.room())
	case "home", "g":
		t.move(-1 << 20)
	case "end", "G":
		t.move(1 << 20)
	case "p":
		isPaused := t.seen && t.data.status.Queue.Pause != nil
		t.question, t.yes = "pause: begin nothing more", t.daemon.order(pauseOrder(isPaused))
		if isPaused {
			t.question = "resume"
		}
	default:
		return t.pressOnLine(key)
	}
	return nil
}

// pressOnLine does what a key is for that concerns the chosen line.
func (t *top) pressOnLine(key string) tea.Cmd {
	line := t.line()
	if line == nil {
		return nil
	}
	switch {
	case key == "enter" || key == "right" || key == "l":
		t.detail, t.scroll = &topDetail{of: line.key, text: line.text}, 0
		return t.lookInside()
	case key == "c" && line.execution != 0 && !line.isEnded:
		t.question, t.yes = fmt.Sprintf("cancel execution %d", line.execution), t.daemon.order(cancelOrder(line.execution))
	case key == "r" && line.sensor != "":
		t.question, t.yes = "restart sensor "+line.sensor, t.daemon.order(restartOrder(line.sensor))
	case key == "r" && line.isEnded:
		t.question, t.yes = fmt.Sprintf("repeat execution %d", line.execution), t.daemon.order(rerunOrder(line.execution))
	case key == "c" || key == "r":
		t.said, t.wentBad = "there is nothing to cancel or to restart in this line", true
	}
	return nil
}

// lines are those of the list that is shown.
func (t *top) lines() []topLine {
	if !t.seen {
		return nil
	}
	switch t.list {
	case topActive:
		return t.executionLines(t.data.active)
	case topEnded:
		return t.executionLines(t.data.ended)
	case topFailures:
		return t.executionLines(t.data.failed)
	case topSensors:
		var lines []topLine
		cells := rows(shown(t.command, sensorColumns()), t.data.status.Sensors, t.now)
		for i, s := range t.data.status.Sensors {
			lines = append(lines, topLine{key: s.Ref, cells: cells[i], sensor: s.Ref})
		}
		return lines
	case topErrors:
		return t.errorLines()
	}
	return nil
}

func (t *top) executionLines(executions []api.Execution) []topLine {
	cells := rows(shown(t.command, executionColumns()), executions, t.now)
	lines := make([]topLine, len(executions))
	for i, e := range executions {
		lines[i] = topLine{key: fmt.Sprint(e.ID), cells: cells[i], execution: e.ID, isEnded: e.Status.Final()}
	}
	return lines
}

// errorLines are what is wrong with the daemon, and with the files of packs.
func (t *top) errorLines() []topLine {
	var lines []topLine
	add := func(severity, text string) {
		lines = append(lines, topLine{key: fmt.Sprint(len(lines)), cells: []cell{status(severity), plain(text)}, text: text})
	}
	for _, problem := range t.data.status.Problems {
		add("warning", problem)
	}
	for _, p := range t.data.status.Packs {
		for _, e := range p.Errors {
			add(string(e.Severity), e.Error())
		}
	}
	return lines
}

// at is where the cursor stands in lines: with its line, or, where that is gone, at the top.
func (t *top) at(lines []topLine) int {
	for i := range lines {
		if lines[i].key == t.chosen[t.list] {
			return i
		}
	}
	return 0
}

// line is the one under the cursor; nil: there is none.
func (t *top) line() *topLine {
	lines := t.lines()
	if len(lines) == 0 {
		return nil
	}
	return &lines[t.at(lines)]
}

// move moves the cursor, or what is looked inside.
func (t *top) move(by int) {
	if t.detail != nil {
		most := strings.Count(t.detail.text, "\n") + 1 - t.room()
		t.scroll = max(0, min(t.scroll+by, most))
		return
	}
	lines := t.lines()
	if len(lines) > 0 {
		t.chosen[t.list] = lines[max(0, min(t.at(lines)+by, len(lines)-1))].key
	}
}

const (
	// topHead and topFoot are the lines around a list: the state and the lists' names, the head of the
	// columns, and what the keys do.
	topHead = 4
	topFoot = 1
)

// room is how many lines a list has.
func (t *top) room() int { return max(1, t.height-topHead-1-topFoot) }

// View draws the screen.
func (t *top) View() tea.View {
	lines := append(t.header(), t.body()...)
	for len(lines) < t.height-topFoot {
		lines = append(lines, "")
	}
	lines = append(lines[:max(0, t.height-topFoot)], t.footer())
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], t.width, "…")
	}
	view := tea.NewView(strings.Join(lines, "\n"))
	view.AltScreen = true
	view.WindowTitle = "attune top"
	return view
}

// header has topHead lines.
func (t *top) header() []string {
	first, queue, third := t.paint(styleDim, "attune"), "", ""
	if t.seen {
		s := t.data.status
		state := t.paint(styleGood, "ready")
		if !s.Ready {
			state = t.paint(styleBad, "not ready")
		}
		first = fmt.Sprintf("attune %s, %s, up %s, node %s", s.Version, state, age(t.now, s.StartedAt), oneLine(s.Node))
		queue = queueLine(s)
		third = fmt.Sprintf("%s; sensors: %s; %s", count(s.Components.Rules, "rule"), sensorsLine(s.Sensors), packsLine(s.Packs))
		if p := s.Queue.Pause; p != nil {
			third = t.paint(styleBad, oneLine(pausedLine(p, t.now)))
		}
	}
	if t.lost != nil {
		since := ""
		if t.seen {
			since = fmt.Sprintf(" for %s; below is what it said last", age(t.now, t.lostAt))
		}
		first = t.paint(styleBad, "no daemon"+since) + ": " + oneLine(t.lost.Error())
	}
	var names []string
	for l := range topLists {
		name := fmt.Sprintf("%d %s", l+1, l.title())
		if l == t.list {
			name = t.emphasis("[" + name + "]")
		} else {
			name = " " + name + " "
		}
		names = append(names, name)
	}
	return []string{first, queue, third, strings.Join(names, " ")}
}

// emphasis is for what the eye is to find: without colour the brackets and the mark do it.
func (t *top) emphasis(text string) string {
	if !t.colour() {
		return text
	}
	return lipgloss.NewStyle().Bold(true).Reverse(true).Render(text)
}

func (t *top) body() []string {
	if t.detail != nil {
		text := t.detail.text
		if text == "" {
			text = "…"
		}
		lines := strings.Split(ansi.Wrap(text, max(t.width, 1), ""), "\n")
		from := max(0, min(t.scroll, len(lines)-1))
		return lines[from:min(len(lines), from+t.room()+1)]
	}
	lines := t.lines()
	if len(lines) == 0 {
		if !t.seen {
			return nil
		}
		return []string{t.paint(styleDim, "nothing here")}
	}
	at := t.at(lines)
	// The cursor stays on the screen, and the list as still as it can.
	t.first = max(0, min(max(min(t.first, at), at-t.room()+1), len(lines)-t.room()))
	visible := lines[t.first:min(len(lines), t.first+t.room())]
	var head []string
	switch t.list {
	case topSensors:
		head = titles(shown(t.command, sensorColumns()))
	case topErrors:
		head = []string{"severity", "what"}
	default:
		head = titles(shown(t.command, executionColumns()))
	}
	widths := make([]int, len(head))
	for i, title := range head {
		widths[i] = len(title)
		for _, line := range visible {
			widths[i] = max(widths[i], lipgloss.Width(oneLine(line.cells[i].text)))
		}
	}
	out := []string{t.paint(styleDim, "  "+aligned(strings.ToUpper, head, widths))}
	for i, line := range visible {
		mark := "  "
		if t.first+i == at {
			mark = t.emphasis(">") + " "
		}
		var row strings.Builder
		row.WriteString(mark)
		for k, f := range line.cells {
			text := oneLine(f.text)
			row.WriteString(t.paint(f.style, text))
			row.WriteString(strings.Repeat(" ", max(widths[k]-lipgloss.Width(text), 0)+2))
		}
		out = append(out, strings.TrimRight(row.String(), " "))
	}
	return out
}

// aligned joins words in columns.
func aligned(change func(string) string, words []string, widths []int) string {
	var line strings.Builder
	for i, word := range words {
		fmt.Fprintf(&line, "%-*s  ", widths[i], change(word))
	}
	return strings.TrimRight(line.String(), " ")
}

func (t *top) footer() string {
	switch {
	case t.question != "":
		return t.emphasis(t.question + "? y/n")
	case t.said != "" && t.wentBad:
		return t.paint(styleBad, oneLine(t.said))
	case t.said != "":
		return t.paint(styleGood, oneLine(t.said))
	case t.detail != nil:
		return t.paint(styleDim, "up/down scroll  esc back  c cancel  r repeat  q quit")
	}
	return t.paint(styleDim, "tab list  up/down line  enter inside  c cancel  r repeat  p pause  q quit")
}

// screenBuffer is what a screen for people is written to before it is drawn.
type screenBuffer = bytes.Buffer

// screenText has another command's screen written without colour, and with nothing in it that would move the
// cursor: it may hold what children print.
func (c *command) screenText(write func(*command, *screenBuffer)) string {
	bare := *c
	bare.noColor = true
	var text screenBuffer
	write(&bare, &text)
	lines := strings.Split(strings.TrimRight(ansi.Strip(text.String()), "\n"), "\n")
	for i, line := range lines {
		lines[i] = oneLine(line)
	}
	return strings.Join(lines, "\n")
}
