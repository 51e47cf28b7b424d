package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/store"
)

// source is what a feed looks at, in the hands of a test.
type source struct {
	notices chan string
	nudges  chan string
	looks   chan []string // what each look finds
	begins  int
	err     error
}

func (s *source) feed() *feed[string] {
	return newFeed(slog.New(slog.DiscardHandler), func() (<-chan string, func()) { return s.notices, func() {} },
		func() (<-chan string, func()) { return s.nudges, func() {} },
		func(context.Context) (looker[string], error) {
			s.begins++
			return func(context.Context, []string) (items []feedItem[string], gap string, more bool, err error) {
				select {
				case found := <-s.looks:
					for _, text := range found {
						items = append(items, feedItem[string]{item: &text, text: []byte(text)})
					}
				default:
				}
				return items, "", len(s.looks) > 0, nil
			}, s.err
		})
}

// took says what a cursor gives.
func took(c *cursor[string]) string {
	entries, number, missed, _, ok := c.take()
	if !ok {
		return "over"
	}
	said := fmt.Sprintf("from %d", number)
	if missed > 0 {
		said += fmt.Sprintf(", %d missed", missed)
	}
	for _, e := range entries {
		said += " " + *e.item
	}
	return said
}

func TestFeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{notices: make(chan string), nudges: make(chan string), looks: make(chan []string, 100)}
		f := s.feed()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.pump(ctx)
		follow := func(after, wantGap string) *cursor[string] {
			t.Helper()
			c, gap, err := f.follow(ctx, after)
			if err != nil || gap != wantGap {
				t.Fatalf("after %q: gap %q, %v", after, gap, err)
			}
			return c
		}
		expect := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: found %q, want %q", what, got, want)
			}
		}
		first := follow("", "")
		s.looks <- []string{"a", "b"}
		time.Sleep(feedTick) //nolint:forbidigo // of a bubble
		synctest.Wait()
		expect("at the tick", took(first), "from 1 a b")
		s.looks <- []string{"c"}
		s.notices <- ""
		synctest.Wait()
		expect("at a notice", took(first), "from 3 c")
		expect("nothing new", took(first), "from 4")

		expect("behind the first", took(follow(first.id(1), "")), "from 2 b c")
		expect("behind the last", took(follow(first.id(3), "")), "from 4")
		expect("behind one that has not come", took(follow(first.id(4), gapOtherRun)), "from 4")
		expect("of another run", took(follow("X.1", gapOtherRun)), "from 4")
		expect("of nothing", took(follow("nonsense", gapOtherRun)), "from 4")

		many := make([]string, feedEntries)
		for i := range many {
			many[i] = "x"
		}
		s.looks <- many
		nudged := time.Now()
		s.nudges <- ""
		synctest.Wait()
		if took := time.Since(nudged); took > 0 {
			t.Errorf("a nudge waits %v for the tick", took)
		}
		if got := took(follow(first.id(1), "")); !strings.HasPrefix(got, "from 4, 2 missed x x") {
			t.Errorf("too late: found %.40q", got)
		}
		f.mu.Lock()
		f.follows = 1
		f.mu.Unlock()
		first.leave()
		time.Sleep(feedLinger / 2) //nolint:forbidigo // of a bubble
		if came := follow(first.id(3), ""); s.begins != 1 {
			t.Errorf("it began %d times", s.begins)
		} else {
			came.leave()
		}
		time.Sleep(2 * feedLinger) //nolint:forbidigo // of a bubble
		synctest.Wait()
		expect("nobody has followed for long", took(first), "over")
		late := follow(first.id(3), gapOtherRun)
		expect("a new life", took(late), "from 1")
		cancel()
		synctest.Wait()
		expect("stopped", took(late), "over")
	})
}

// Who follows while nothing can be followed is told why, and may come again.
func TestFeedThatCannotBegin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{notices: make(chan string), looks: make(chan []string, 1), err: errors.New("the database is away")}
		f := s.feed()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.pump(ctx)
		if _, _, err := f.follow(ctx, ""); err == nil || err.Error() != "the database is away" {
			t.Errorf("found %v", err)
		}
		s.err = nil
		if _, _, err := f.follow(ctx, ""); err != nil {
			t.Errorf("found %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

// Over HTTP a stream goes on where it was, and a change that came meanwhile is told.
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	read := func(after string, count int) (ids, kinds []string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := &streamReader[ReconcileChange]{kind: "reconcile", last: after}
		note := func(kind string) error {
			kinds = append(kinds, kind)
			if len(kinds) == count {
				return io.EOF
			}
			return nil
		}
		r.follow = Follow[ReconcileChange]{
			Ready: func() error {
				b.raise()
				return note("ready")
			},
			Item: func(c *ReconcileChange) error {
				ids = append(ids, fmt.Sprint(c.Reconcile.Generation))
				return note("reconcile")
			},
			Gap: func(*Gap) error { return note("gap") },
		}
		err := r.read(ctx, b.client, "/reconcile/stream", nil)
		if !errors.As(err, new(*followError)) {
			t.Fatalf("the stream ended with %v after %v", err, kinds)
		}
		return append(ids, r.last), kinds
	}
	first, kinds := read("", 2)
	if diff := cmp.Diff([]string{"ready", "reconcile"}, kinds); diff != "" || first[0] != "4" {
		t.Fatalf("found %v %s", first, diff)
	}
	last := first[len(first)-1]
	// Between the two nobody follows; it is seen before the next, which would be one with it.
	feed := b.server.feeds.reconcile
	seen := func() (all int64, more <-chan struct{}) {
		feed.mu.Lock()
		defer feed.mu.Unlock()
		return feed.first + int64(len(feed.entries)), feed.wake
	}
	before, more := seen()
	b.raise()
	for now := before; now == before; now, more = seen() {
		<-more
	}
	second, kinds := read(last, 3)
	if diff := cmp.Diff([]string{"ready", "reconcile", "reconcile"}, kinds); diff != "" {
		t.Error(diff)
	}
	if second[len(second)-2] != "6" {
		t.Errorf("behind generation 4 came %v", second)
	}
	if _, kinds := read("other.7", 2); kinds[1] != "gap" {
		t.Errorf("an id of another daemon: %v", kinds)
	}
}

// events splits a stream that has ended into "kind id data".
func events(text string) (all []string) {
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		block = strings.NewReplacer("event: ", "", "\nid: ", " ", "\ndata: ", " ").Replace(block)
		all = append(all, block)
	}
	return all
}

func TestSensorLogStream(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, after string
		lines       []sensor.LogLine
		want        []string
		asked       int64
	}{
		{
			"from the beginning", "",
			[]sensor.LogLine{{Number: 501, Text: "a"}, {Number: 502, Text: "b"}},
			[]string{"ready journal.0 {}", `line journal.501 {"text":"a"}`, `line journal.502 {"text":"b"}`},
			0,
		},
		{
			"behind a line", "journal.501",
			[]sensor.LogLine{{Number: 502, Text: "b"}},
			[]string{"ready journal.501 {}", `line journal.502 {"text":"b"}`},
			501,
		},
		{
			"too late", "journal.7",
			[]sensor.LogLine{{Number: 10, Text: "b"}},
			[]string{"ready journal.7 {}", `gap journal.9 {"reason":"more was written than is kept","missed":2}`, `line journal.10 {"text":"b"}`},
			7,
		},
		{
			"another journal", "older.7",
			[]sensor.LogLine{{Number: 1, Text: "a"}},
			[]string{"ready journal.0 {}", `gap journal.0 {"reason":"the sensor's log has begun anew since: this is all that is kept of it"}`, `line journal.1 {"text":"a"}`},
			0,
		},
	} {
		b := setup(t)
		for _, line := range test.lines {
			b.lines <- line
		}
		close(b.lines)
		status, text := b.rawWith(t, "/api/v1/sensors/core.timer/logs/stream", "Last-Event-ID", test.after)
		if diff := cmp.Diff(test.want, events(text)); diff != "" || status != http.StatusOK {
			t.Errorf("%s: %d (-want +got)\n%s", test.name, status, diff)
		}
		if b.logAfter != test.asked {
			t.Errorf("%s: asked for what is behind %d", test.name, b.logAfter)
		}
	}
}

// However an output is cut into pieces, and whatever of it has come, the rest comes once, or it is told that it cannot.
func TestOutputResumes(t *testing.T) {
	t.Parallel()
	line := func(attempt int, stream, text string) OutputLine {
		return OutputLine{Attempt: attempt, Stream: stream, Text: text}
	}
	end := OutputLine{Execution: &ExecutionDetail{Execution: store.Execution{ID: 7}}}
	for _, test := range []struct {
		name, after string
		lines       []OutputLine
		want        []string // "attempt stream text", or the kind
	}{
		{"all", "", []OutputLine{line(1, "stdout", "ab"), line(1, "stderr", "x"), end}, []string{"ready", "1 stdout ab", "1 stderr x", "execution"}},
		{"behind a piece", "1.1.0", []OutputLine{line(1, "stdout", "a"), line(1, "stdout", "bc"), end}, []string{"ready", "1 stdout bc", "execution"}},
		{"inside a piece", "1.3.1", []OutputLine{line(1, "stdout", "ab"), line(1, "stderr", "xy"), line(1, "stdout", "é!"), end}, []string{"ready", "1 stderr y", "1 stdout !", "execution"}},
		{"what is no text is not counted", "1.2.0", []OutputLine{line(1, "stdout", "a��b"), line(1, "stdout", "�c")}, []string{"ready", "1 stdout �c"}},
		{"a later attempt", "2.1.0", []OutputLine{line(1, "stdout", "abc"), {Attempt: 2}, line(2, "stdout", "de"), {Attempt: 3}, line(3, "stdout", "f")}, []string{"ready", "2 stdout e", "3  ", "3 stdout f"}},
		{"the middle is not kept", "1.9.0", []OutputLine{line(1, "stdout", "abc\n[… 10 bytes left out …]\nxyz")}, []string{"ready", "gap", "1 stdout [… 10 bytes left out …]\nxyz"}},
		{"the middle is not kept, and had not come", "1.2.0", []OutputLine{line(1, "stdout", "abc\n[… 10 bytes left out …]\nxyz")}, []string{"ready", "1 stdout c\n[… 10 bytes left out …]\nxyz"}},
		{"no position", "x.1", []OutputLine{line(1, "stdout", "a")}, []string{"ready", "gap", "1 stdout a"}},
	} {
		recorded := httptest.NewRecorder()
		r := &resumption{w: newEventWriter(recorded), unknown: test.after != ""}
		if at, ok := parsePosition(test.after); ok {
			r.after, r.unknown = at, false
		}
		if err := r.begin(); err != nil {
			t.Fatal(err)
		}
		for _, line := range test.lines {
			if err := r.write(line, false); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, event := range events(recorded.Body.String()) {
			kind, rest, _ := strings.Cut(event, " ")
			_, data, _ := strings.Cut(rest, " ")
			var line OutputLine
			if kind == "output" {
				if err := decodeNumbers(data, &line); err != nil {
					t.Fatal(err)
				}
				if kind = fmt.Sprintf("%d %s %s", line.Attempt, line.Stream, line.Text); line.Execution != nil {
					kind = "execution"
				}
			}
			got = append(got, kind)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
	}
}

// Every id that a stream of output gives leads on behind it.
func TestOutputResumesAnywhere(t *testing.T) {
	t.Parallel()
	lines := []OutputLine{
		{Attempt: 1, Stream: "stdout", Text: "aé"},
		{Attempt: 1, Stream: "stderr", Text: "x"},
		{Attempt: 1, Stream: "stdout", Text: "�b"},
		{Attempt: 2},
		{Attempt: 2, Stream: "stdout", Text: "c"},
		{Execution: &ExecutionDetail{}},
	}
	write := func(after string) []string {
		recorded := httptest.NewRecorder()
		r := &resumption{w: newEventWriter(recorded)}
		r.after, _ = parsePosition(after)
		for _, line := range lines {
			if err := r.write(line, false); err != nil {
				t.Fatal(err)
			}
		}
		return events(recorded.Body.String())
	}
	all := write("")
	for i, event := range all {
		id := strings.Fields(event)[1]
		want := all[i+1:]
		if i == len(all)-1 {
			want = all[i:] // the execution itself comes again
		}
		if diff := cmp.Diff(want, write(id)); diff != "" {
			t.Errorf("behind %s: (-want +got)\n%s", id, diff)
		}
	}
}

// answers are what a daemon answers, one request after the other.
type answers struct {
	after []string // Last-Event-ID of each request
	texts []string // empty: nobody is there
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.after = append(a.after, r.Header.Get("Last-Event-ID"))
	text := a.texts[0]
	a.texts = a.texts[1:]
	if text == "" {
		return nil, errors.New("nobody is there")
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// A client goes on behind what came last, also behind a beat, and says what happens to it.
func TestClientFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &answers{texts: []string{
			"event: ready\nid: r.0\ndata: {}\n\n: a comment\n\nevent: event\nid: r.1\ndata: {\"id\":1}\n\n: \nid: r.5\n\nevent: event\nid: r.6\ndata: {\"id\"",
			"",
			"",
			"event: ready\nid: s.0\ndata: {}\n\nevent: gap\nid: s.0\ndata: {\"reason\":\"anew\"}\n\nevent: unheard_of\ndata: {}\n\nevent: event\nid: s.1\ndata: {\"id\":9}\n\n",
		}}
		client, err := NewClient("http://127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		client.http.Transport = a
		var said []string
		enough := errors.New("enough")
		err = client.StreamEvents(t.Context(), EventFilter{}, Follow[Event]{
			Ready: func() error { said = append(said, "ready"); return nil },
			Gap:   func(g *Gap) error { said = append(said, "gap "+g.Reason); return nil },
			Away:  func(error) error { said = append(said, "away"); return nil },
			Item: func(e *Event) error {
				if said = append(said, fmt.Sprint(e.ID)); e.ID == 9 {
					return enough
				}
				return nil
			},
		})
		if !errors.Is(err, enough) {
			t.Errorf("found %v", err)
		}
		if diff := cmp.Diff([]string{"ready", "1", "away", "gap anew", "9"}, said); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"", "r.5", "r.5", "r.5"}, a.after); diff != "" {
			t.Error(diff)
		}
	})
}
