package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

type gotLine struct {
	Number           int64
	Text             string
	TooLong, Partial bool
}

func readLines(t testing.TB, r io.Reader) ([]gotLine, error) {
	t.Helper()
	l := NewLineReader(r)
	var lines []gotLine
	for {
		line, err := l.Next()
		if err != nil {
			if _, again := l.Next(); !errors.Is(again, err) {
				t.Errorf("after %v came %v", err, again)
			}
			return lines, err
		}
		lines = append(lines, gotLine{line.Number, string(line.Bytes), line.TooLong, line.Partial})
	}
}

func TestLineReader(t *testing.T) {
	t.Parallel()
	full := strings.Repeat("f", MaxLine)
	head := strings.Repeat("f", tooLongHead)
	for _, tc := range []struct {
		name, in string
		want     []gotLine
	}{
		{"nothing", "", nil},
		{"one", "a\n", []gotLine{{1, "a", false, false}}},
		{"empty lines", "\n\na\n", []gotLine{{1, "", false, false}, {2, "", false, false}, {3, "a", false, false}}},
		{"no newline at the end", "a\nb", []gotLine{{1, "a", false, false}, {2, "b", false, true}}},
		{"carriage return is the line's", "a\r\n", []gotLine{{1, "a\r", false, false}}},
		{"the longest", full + "\nb\n", []gotLine{{1, full, false, false}, {2, "b", false, false}}},
		{"the longest, unfinished", full, []gotLine{{1, full, false, true}}},
		{"one byte too long", full + "f\nb\n", []gotLine{{1, head, true, false}, {2, "b", false, false}}},
		{"too long, unfinished", full + "f", []gotLine{{1, head, true, true}}},
		{"much too long, then good", strings.Repeat(full, 3) + "\ngood\n", []gotLine{{1, head, true, false}, {2, "good", false, false}}},
		{"two too long", full + "f\n" + full + "ff\n", []gotLine{{1, head, true, false}, {2, head, true, false}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{
				strings.NewReader(tc.in),
				iotest.HalfReader(strings.NewReader(tc.in)),
				iotest.DataErrReader(strings.NewReader(tc.in)),
			} {
				got, err := readLines(t, r)
				if !errors.Is(err, io.EOF) {
					t.Errorf("got %v", err)
				}
				if d := cmp.Diff(tc.want, got); d != "" {
					t.Errorf("(-want +got):\n%.500s", d)
				}
			}
		})
	}
}

func TestLineReaderErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	got, err := readLines(t, io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff([]gotLine{{1, "a", false, false}, {2, "b", false, true}}, got); d != "" {
		t.Error(d)
	}
	if _, err := readLines(t, silent{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that gives nothing: %v", err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// TestLineReaderMemory reads a line of 100 MB and one that is good, and measures what is allocated.
func TestLineReaderMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l := NewLineReader(io.MultiReader(io.LimitReader(zeros{}, 100<<20), strings.NewReader("\ngood\n")))
	first, err := l.Next()
	if err != nil || !first.TooLong || len(first.Bytes) != tooLongHead {
		t.Fatalf("got %+v, %v", first, err)
	}
	second, err := l.Next()
	if err != nil || string(second.Bytes) != "good" || second.Number != 2 {
		t.Fatalf("got %+v, %v", second, err)
	}
	if _, err := l.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("allocated %d MiB", n>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// chunks cuts a stream as the bytes of cuts say.
type chunks struct {
	data, cuts []byte
	i          int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := c.next(len(p))
	copy(p, c.data[:n])
	c.data = c.data[n:]
	return n, nil
}

func (c *chunks) next(most int) int {
	n := min(len(c.data), most)
	if len(c.cuts) > 0 {
		n = min(n, 1+int(c.cuts[c.i%len(c.cuts)]))
		c.i++
	}
	return n
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), []byte{0, 3}, uint16(0))
	f.Add([]byte("\n"), []byte{}, uint16(7))
	f.Fuzz(func(t *testing.T, data, cuts []byte, more uint16) {
		// A long line now and then, at a place that the fuzzer chooses.
		if more > 0x8000 && len(data) > 0 {
			at := int(more) % len(data)
			data = append(append(bytes.Clone(data[:at]), bytes.Repeat([]byte("L"), MaxLine-2+at%5)...), data[at:]...)
		}
		got, err := readLines(t, &chunks{data: data, cuts: cuts})
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		var want []gotLine
		for i, line := range bytes.SplitAfter(data, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			text, whole := bytes.CutSuffix(line, []byte("\n"))
			w := gotLine{Number: int64(i + 1), Text: string(text), Partial: !whole}
			if len(text) > MaxLine {
				w.Text, w.TooLong = string(text[:tooLongHead]), true
			}
			want = append(want, w)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%.1000s", d)
		}
	})
}

func TestCapture(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		limit   int64
		in      string
		want    string
		omitted int64
		raw     bool
	}{
		{"nothing", 10, "", "", 0, true},
		{"fits", 10, "0123456789", "0123456789", 0, true},
		{"one too many", 10, "0123456789a", "01234\n[… 1 bytes left out …]\n6789a", 1, false},
		{"long", 4, "ab" + strings.Repeat("x", 1000) + "yz", "ab\n[… 1000 bytes left out …]\nyz", 1000, false},
		{"newline at the cut", 4, "a\nxxxxyz", "a\n[… 4 bytes left out …]\nyz", 4, false},
		{"no limit", 0, "abc", "[… 3 bytes left out …]\n", 3, false},
		{"limit of one", 1, "abc", "a\n[… 2 bytes left out …]\n", 2, false},
		{"negative limit", -1, "", "", 0, true},
		{"bad UTF-8", 10, "a\xffb", "a\uFFFDb", 0, true},
		{"NUL", 10, "a\x00b", "a\uFFFDb", 0, true},
		{"characters at the cut", 8, "aäääääa", "aä\n[… 6 bytes left out …]\näa", 6, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 3, 1 << 20} {
				c := NewCapture(tc.limit, nil)
				for in := []byte(tc.in); len(in) > 0; {
					n := min(size, len(in))
					if m, err := c.Write(in[:n]); m != n || err != nil {
						t.Fatal(m, err)
					}
					in = in[n:]
				}
				text, total, omitted := c.Text()
				if text != tc.want || total != int64(len(tc.in)) || omitted != tc.omitted {
					t.Errorf("in chunks of %d: got %q, %d, %d", size, text, total, omitted)
				}
				if raw, ok := c.Raw(); ok != tc.raw || ok && string(raw) != tc.in {
					t.Errorf("raw: %q, %v", raw, ok)
				}
			}
		})
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	c := NewCapture(8, nil)
	io.WriteString(c, "abcdefghij")
	ch, stop := c.Follow()
	io.WriteString(c, "next")
	other, stopOther := c.Follow()
	stopOther()
	stopOther() // twice is no harm
	c.Close()
	c.Close()
	io.WriteString(c, "after the end")
	got := drained(ch)
	stop()
	if d := cmp.Diff("abcd\n[… 2 bytes left out …]\nghijnext", got); d != "" {
		t.Error(d)
	}
	for range other { // closed
	}
	// Who comes after the end gets what was kept.
	late, _ := c.Follow()
	if got := string((<-late).Text); !strings.HasSuffix(got, "next") {
		t.Errorf("got %q", got)
	}
	if _, open := <-late; open {
		t.Error("it goes on after the end")
	}
}

// drained is all that a follower is given.
func drained(ch <-chan Piece) string {
	var all strings.Builder
	for chunk := range ch {
		all.Write(chunk.Text)
	}
	return all.String()
}

// TestSlowFollower holds that a reader far behind gets everything in the end, and that neither the child
// nor another reader waits for it.
func TestSlowFollower(t *testing.T) {
	t.Parallel()
	c := NewCapture(100, nil)
	slow, stop := c.Follow()
	defer stop()
	var want strings.Builder
	write := func(n int) {
		for range n {
			line := fmt.Sprintf("line %d\n", want.Len())
			want.WriteString(line)
			io.WriteString(c, line)
		}
	}
	write(3 * followMemory / 8)
	var got strings.Builder
	for got.Len() < 2*followMemory { // back from the file into memory, and out again
		got.Write((<-slow).Text)
	}
	write(3 * followMemory / 8)
	c.Close()
	got.WriteString(drained(slow))
	if got.String() != want.String() {
		t.Errorf("got %d bytes, want %d, or in another order", got.Len(), want.Len())
	}
}

// TestFollowerLosesWhatNoFileHolds holds that what is beyond the file is told, in its place.
func TestFollowerLosesWhatNoFileHolds(t *testing.T) {
	t.Parallel()
	f := newFollower()
	f.disk = 20
	memory := strings.Repeat("m", followMemory-frameHead)
	for _, text := range []string{memory, "12345", "67890", "lost", "1"} {
		f.send(0, []byte(text))
	}
	go f.run()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), "…]\n") {
		got.Write((<-f.c).Text)
	}
	f.send(0, []byte("again"))
	f.end()
	got.WriteString(drained(f.c))
	if d := cmp.Diff(memory+"1234567890\n[… 5 bytes left out …]\nagain", got.String()); d != "" {
		t.Error(d)
	}
}

// TestFollowerThatLeaves holds that nothing is kept for who has gone.
func TestFollowerThatLeaves(t *testing.T) {
	t.Parallel()
	c := NewCapture(100, nil)
	ch, stop := c.Follow()
	big := bytes.Repeat([]byte("x"), 2*followMemory)
	c.Write(big)
	c.Write(big)
	stop()
	drained(ch)
	c.Write(big)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.followers) != 0 {
		t.Error("it is still written to")
	}
}

func FuzzCapture(f *testing.F) {
	f.Add([]byte("hello w\xc3\xb6rld\x00\xff"), []byte{1, 2}, uint8(5))
	f.Fuzz(func(t *testing.T, data, cuts []byte, limit uint8) {
		c := NewCapture(int64(limit), nil)
		ch, _ := c.Follow()
		followed := make(chan []byte)
		go func() {
			var all []byte
			for chunk := range ch {
				all = append(all, chunk.Text...)
			}
			followed <- all
		}()
		if _, err := io.CopyBuffer(struct{ io.Writer }{c}, &chunks{data: bytes.Clone(data), cuts: cuts}, make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-followed
		text, total, omitted := c.Text()
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			t.Errorf("unfit for a database: %q", text)
		}
		if total != int64(len(data)) {
			t.Errorf("total %d of %d", total, len(data))
		}
		if len(data) <= int(limit) {
			if raw, ok := c.Raw(); !ok || !bytes.Equal(raw, data) || omitted != 0 {
				t.Errorf("lost something: %q of %q", raw, data)
			}
			return
		}
		if _, ok := c.Raw(); ok || omitted < total-int64(limit) || omitted > total {
			t.Errorf("omitted %d of %d with limit %d", omitted, total, limit)
		}
		if note := fmt.Sprintf("[… %d bytes left out …]", omitted); !strings.Contains(text, note) {
			t.Errorf("no note in %q", text)
		}
	})
}
