package sensor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/exec/child"
)

func TestTheJournalIsBounded(t *testing.T) {
	t.Parallel()
	var j journal
	for n := range 3 * journalLines {
		j.add(fmt.Append(nil, n))
	}
	lines := j.tail(5000)
	if len(lines) != journalLines || lines[0] != "2000" || lines[journalLines-1] != "2999" {
		t.Errorf("%d lines from %s to %s", len(lines), lines[0], lines[len(lines)-1])
	}
	if diff := cmp.Diff([]string{"2998", "2999"}, j.tail(2)); diff != "" {
		t.Error(diff)
	}
	for range 200 {
		j.add([]byte(strings.Repeat("x", 2*journalLine)))
	}
	lines = j.tail(5000)
	if len(lines) != journalBytes/journalLine || j.bytes != journalBytes || len(lines[0]) != journalLine {
		t.Errorf("%d lines, %d bytes, the first %d", len(lines), j.bytes, len(lines[0]))
	}
	j.add([]byte("a\x00b\xff"))
	if diff := cmp.Diff([]string{"a\uFFFDb\uFFFD"}, j.tail(1)); diff != "" {
		t.Error(diff)
	}
}

func TestLinesOfStderr(t *testing.T) {
	t.Parallel()
	var j journal
	w := newLineWriter(&j, child.NewMask([]string{"swordfish"}))
	long := strings.Repeat("y", 10*journalLine)
	for _, part := range []string{"one\ntw", "o\r\n\nthe sword", "fish is mine\n", long, long + "\nlast"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.flush()
	w.flush()
	want := []string{"one", "two", "", "the *** is mine", long[:journalLine], "last"}
	if diff := cmp.Diff(want, j.tail(100)); diff != "" {
		t.Error(diff)
	}
}

func TestAFloodOfStderrTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		w := newLineWriter(&j, nil)
		chunk := []byte(strings.Repeat("y", 64<<10))
		begin := time.Now()
		for range 20 << 20 / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin).Round(100 * time.Millisecond); took != 6*time.Second {
			t.Errorf("20 MiB took %s", took)
		}
	})
}

func TestFollowersOfAJournal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		j.add([]byte("before"))
		ctx, cancel := context.WithCancel(t.Context())
		first, second := j.follow(ctx, true, 0), j.follow(t.Context(), true, 0)
		if got := []LogLine{<-first, <-second}; got[0].Text != "before" || got[1].Text != "before" {
			t.Error(got)
		}
		j.add([]byte("after"))
		if got := []LogLine{<-first, <-second}; got[0].Text != "after" || got[1].Text != "after" {
			t.Error(got)
		}
		cancel()
		if line, ok := <-first; ok {
			t.Errorf("%+v after the end of its context", line)
		}
		j.add([]byte("late"))
		j.close()
		if line := <-second; line.Text != "late" || line.Number != 3 {
			t.Error(line)
		}
		if line, ok := <-second; ok {
			t.Errorf("%+v after the end of the journal", line)
		}
	})
}

func TestTheSpool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSpool()
		written := make(chan int)
		go func() {
			n, _ := s.Write(make([]byte, 3*spoolRoom))
			written <- n
		}()
		synctest.Wait()
		if s.waiting() != spoolRoom {
			t.Errorf("%d bytes wait", len(s.buf))
		}
		select {
		case <-written:
			t.Fatal("the writer was not held back")
		default:
		}
		s.widen(2 * spoolRoom)
		synctest.Wait()
		if s.waiting() != 2*spoolRoom {
			t.Errorf("%d bytes wait after widening", len(s.buf))
		}
		s.widen(0)
		if n := <-written; n != 3*spoolRoom {
			t.Errorf("%d bytes were written", n)
		}
		s.end()
		if data, err := io.ReadAll(s); err != nil || len(data) != 3*spoolRoom {
			t.Errorf("read %d bytes, %v", len(data), err)
		}

		s = newSpool()
		var given, got []byte
		for n := range 1000 { // of which a part is read each time, so that what is left moves
			piece := bytes.Repeat([]byte{byte(n)}, 700)
			_, _ = s.Write(piece)
			given = append(given, piece...)
			part := make([]byte, 650)
			k, _ := s.Read(part)
			got = append(got, part[:k]...)
		}
		if room := cap(s.buf); room > spoolRoom {
			t.Errorf("what is read takes %d bytes still", room)
		}
		s.end()
		rest, err := io.ReadAll(s)
		if got = append(got, rest...); err != nil || !bytes.Equal(got, given) {
			t.Errorf("read %d bytes of %d, or others: %v", len(got), len(given), err)
		}

		s = newSpool()
		go func() {
			n, _ := s.Write(make([]byte, 3*spoolRoom))
			written <- n
		}()
		synctest.Wait()
		s.discard()
		if n := <-written; n != 3*spoolRoom {
			t.Errorf("%d bytes were thrown away", n)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read %d, %v", n, err)
		}
	})
}
