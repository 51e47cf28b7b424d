package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// newTestTop makes a screen that nobody draws, of a daemon that nobody asks.
func newTestTop(t *testing.T) *top {
	t.Helper()
	c := &command{sys: System{Getenv: func(string) string { return "" }}, output: outputTable}
	client, err := api.NewSocketClient([]string{t.TempDir() + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	return newTop(c, &topDaemon{ctx: t.Context(), client: client})
}

func key(text string) tea.KeyPressMsg {
	switch text {
	case "enter":
		return tea.KeyPressMsg{Code: tea.KeyEnter}
	case "esc":
		return tea.KeyPressMsg{Code: tea.KeyEscape}
	case "tab":
		return tea.KeyPressMsg{Code: tea.KeyTab}
	case "down":
		return tea.KeyPressMsg{Code: tea.KeyDown}
	case "end":
		return tea.KeyPressMsg{Code: tea.KeyEnd}
	}
	return tea.KeyPressMsg{Code: rune(text[0]), Text: text}
}

func (t *top) send(messages ...tea.Msg) tea.Cmd {
	var cmd tea.Cmd
	for _, m := range messages {
		_, cmd = t.Update(m)
	}
	return cmd
}

// drawn gives the lines of the screen, which have to fit it.
func drawn(t *testing.T, screen *top) []string {
	t.Helper()
	lines := strings.Split(screen.View().Content, "\n")
	if len(lines) > screen.height {
		t.Errorf("%d lines on a screen of %d", len(lines), screen.height)
	}
	for _, line := range lines {
		if lipgloss.Width(line) > screen.width {
			t.Errorf("a line of %d columns on a screen of %d: %q", lipgloss.Width(line), screen.width, line)
		}
	}
	return lines
}

func has(t *testing.T, screen *top, want string) {
	t.Helper()
	if text := ansi.Strip(strings.Join(drawn(t, screen), "\n")); !strings.Contains(text, want) {
		t.Errorf("there is no %q on\n%s", want, text)
	}
}

func busy() topData {
	now := time.Now()
	execution := func(id int64, status store.Status) api.Execution {
		return api.Execution{ID: id, Action: "demo.hello", Status: status, CreatedAt: now, RequestedBy: "ada"}
	}
	data := topData{
		status: &api.Status{
			Version: "1.0.0", Ready: true, Node: "web1", StartedAt: now.Add(-time.Hour), Time: now,
			Sensors:  []api.Sensor{{Component: api.Component{Ref: "demo.watch"}, State: "backoff", Problem: "exit status 1\x1b[2J" + strings.Repeat(" and so on", 20)}},
			Packs:    []api.Pack{{Ref: "demo", Version: "1.0.0", Enabled: true, Errors: manifest.Errors{{Severity: manifest.SeverityError, Message: "there is no such action"}}}},
			Problems: []string{"packs are polled, not watched"},
		},
		ended:  []api.Execution{execution(90, store.StatusSucceeded)},
		failed: []api.Execution{execution(80, store.StatusFailed)},
	}
	for id := int64(50); id > 0; id-- {
		data.active = append(data.active, execution(id, store.StatusRunning))
	}
	return data
}

func TestTopShowsEachList(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	drawn(t, screen)
	screen.send(busy())
	has(t, screen, "attune 1.0.0, ready, up 60m, node web1")
	has(t, screen, "> 50  demo.hello  running")
	for list, want := range map[string]string{"2": "90  demo.hello  succeeded", "3": "demo.watch  backoff", "4": "80  demo.hello  failed", "5": "error     there is no such action"} {
		screen.send(key(list))
		has(t, screen, want)
	}
	screen.send(key("5"), key("tab"))
	has(t, screen, "[1 queue]")
	has(t, screen, "q quit") // what the keys do fits 80 columns
}

// The cursor stays with its line while the list changes, and on the screen whatever its size.
func TestTopCursor(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	screen.send(busy(), key("down"), key("down"))
	has(t, screen, "> 48  ")
	data := busy()
	data.active = data.active[1:]
	screen.send(data)
	has(t, screen, "> 48  ")
	screen.send(key("end"))
	has(t, screen, "> 1   ")
	for _, size := range []tea.WindowSizeMsg{{Width: 200, Height: 60}, {Width: 20, Height: 8}, {Width: 80, Height: 24}, {Width: 1, Height: 1}, {Width: 80, Height: 12}} {
		screen.send(size)
		drawn(t, screen)
	}
	has(t, screen, "> 1   ")
}

// A daemon that goes away is said to have; what it said last stays, and all goes on when it is back.
func TestTopOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	if cmd := screen.send(topData{err: errors.New("nobody listens")}); cmd == nil {
		t.Error("it is not asked again")
	}
	has(t, screen, "no daemon: nobody listens")
	screen.send(busy(), topData{err: errors.New("nobody listens")})
	has(t, screen, "below is what it said last: nobody listens")
	has(t, screen, "> 50  demo.hello")
	screen.send(busy())
	has(t, screen, "attune 1.0.0, ready")
}

// What changes something is asked for once more, and only y does it.
func TestTopAsks(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	screen.send(busy())
	for _, c := range []struct{ list, key, question string }{
		{"1", "c", "cancel execution 50?"},
		{"2", "r", "repeat execution 90?"},
		{"3", "r", "restart sensor demo.watch?"},
		{"1", "p", "pause: begin nothing more?"},
	} {
		if cmd := screen.send(key(c.list), key(c.key)); cmd != nil {
			t.Errorf("%s is done without a question", c.question)
		}
		has(t, screen, c.question+" y/n")
		if cmd := screen.send(key("n")); cmd != nil {
			t.Errorf("%s is done after a no", c.question)
		}
		has(t, screen, "nothing was done")
		if cmd := screen.send(key(c.key), key("y")); cmd == nil {
			t.Errorf("%s is not done", c.question)
		}
	}
	screen.send(key("1"), key("r"))
	has(t, screen, "there is nothing to cancel or to restart")
	data := busy()
	data.status.Queue.Pause = &api.Pause{By: "ada", At: time.Now()}
	screen.send(data)
	has(t, screen, "PAUSED by ada")
	screen.send(key("p"))
	has(t, screen, "resume? y/n")
	screen.send(key("n"), topDone{err: context.DeadlineExceeded})
	has(t, screen, "deadline exceeded")
}

// What is said yes to is what the daemon is asked for, and nothing else; what it answers is told.
func TestTopOrders(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	daemon := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.RequestURI()
		w.WriteHeader(http.StatusTeapot)
	})}
	go func() { _ = daemon.Serve(listener) }()
	t.Cleanup(func() { daemon.Close() })
	client, err := api.NewSocketClient([]string{socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	screen := newTestTop(t)
	screen.daemon.client = client
	screen.send(busy())
	paused := busy()
	paused.status.Queue.Pause = &api.Pause{By: "ada", At: time.Now()}
	for _, c := range []struct{ list, key, wants string }{
		{"1", "c", "POST /api/v1/executions/50/cancel"},
		{"2", "r", "POST /api/v1/executions/90/rerun"},
		{"3", "r", "POST /api/v1/sensors/demo.watch/restart"},
		{"4", "r", "POST /api/v1/executions/80/rerun"},
		{"1", "p", "POST /api/v1/pause"},
		{"", "p", "POST /api/v1/resume"},
		{"1", "enter", "GET /api/v1/executions/50"},
		{"3", "enter", "GET /api/v1/sensors/demo.watch"},
	} {
		if c.list == "" {
			screen.send(paused)
		} else {
			screen.send(busy(), key(c.list))
		}
		cmd := screen.send(key(c.key))
		if c.key != "enter" {
			cmd = screen.send(key("y"))
		}
		if cmd == nil {
			t.Fatalf("%s is asked for by nothing", c.wants)
		}
		answer := cmd()
		if got, _, _ := strings.Cut(<-asked, "?"); got != c.wants {
			t.Errorf("asked for %s, want %s", got, c.wants)
		}
		if done, ok := answer.(topDone); !ok || done.err == nil {
			t.Errorf("%s: the refusal became %+v", c.wants, answer)
		}
		screen.send(answer)
		has(t, screen, "cannot use the answer")
	}
	if data, ok := screen.daemon.look().(topData); !ok || data.err == nil {
		t.Error("a refusal is taken for a look")
	}
	if got := <-asked; got != "GET /api/v1/status" || len(asked) > 0 {
		t.Errorf("after a refusal asked for %s and %d more", got, len(asked))
	}
}

// Each key does what the foot of the screen says, and says what it cannot do.
func TestTopKeys(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	for _, k := range []string{"enter", "c", "r", "down"} {
		if cmd := screen.send(key(k)); cmd != nil {
			t.Errorf("%s does something before there is anything", k)
		}
	}
	if text := strings.TrimSpace(strings.Join(drawn(t, screen)[topHead:screen.height-1], "")); text != "" {
		t.Errorf("before there is anything: %q", text)
	}
	empty := topData{status: &api.Status{Version: "1.0.0", StartedAt: time.Now()}}
	screen.send(empty)
	has(t, screen, "not ready")
	has(t, screen, "nothing here")
	screen.send(busy())
	for _, c := range []struct{ list, key string }{{"1", "r"}, {"2", "c"}, {"3", "c"}, {"5", "c"}, {"5", "r"}} {
		if screen.send(key(c.list), key(c.key)); screen.question != "" {
			t.Errorf("list %s, %s: it asks %q", c.list, c.key, screen.question)
		}
		has(t, screen, "there is nothing to cancel or to restart in this line")
	}
	screen.send(key("1"), key("x"))
	has(t, screen, "q quit")
	if !strings.Contains(ansi.Strip(screen.View().Content), "[1 queue]  2 executions") {
		t.Error("more than one list is marked")
	}
	if n := strings.Count(ansi.Strip(screen.View().Content), "\n> "); n != 1 {
		t.Errorf("%d lines are marked", n)
	}
	for _, k := range []string{"l", "enter"} {
		screen.send(key(k))
		has(t, screen, "esc back")
		has(t, screen, "…")
		screen.send(key("esc"))
		has(t, screen, "tab list")
	}
	screen.send(topDone{text: "execution 7 repeats 6"})
	has(t, screen, "execution 7 repeats 6")
	screen.send(topDetail{of: "50", text: "of nobody"})
	has(t, screen, "> 50  ")
}

func TestTopLooksInside(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	if cmd := screen.send(busy(), key("enter")); cmd == nil {
		t.Error("the daemon is not asked")
	}
	screen.send(topDetail{of: "49", text: "of another"}, topDetail{of: "50", text: strings.Repeat("line\n", 100) + "the end"})
	has(t, screen, "line")
	screen.send(key("end"))
	has(t, screen, "the end")
	screen.send(key("esc"))
	has(t, screen, "> 50  ")
	screen.send(key("5"), key("enter"))
	has(t, screen, "packs are polled, not watched")
}

// What children print draws nothing outside of its place.
func TestTopKeepsControlsOut(t *testing.T) {
	t.Parallel()
	screen := newTestTop(t)
	screen.send(busy(), key("3"))
	if strings.Contains(screen.View().Content, "\x1b[2J") {
		t.Error("a sensor's words clear the screen")
	}
	text := screen.screenText(func(_ *command, w *screenBuffer) { w.WriteString("a\x1b[2J\x07b\nc\r") })
	if text != "ab\nc " {
		t.Errorf("found %q", text)
	}
}
