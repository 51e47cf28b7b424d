package child

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read puts two texts together in the order in which they came.
func read(first, second string, order []int) string {
	var all strings.Builder
	texts := [2]string{first, second}
	for i, n := range order {
		all.WriteString(texts[i%2][:n])
		texts[i%2] = texts[i%2][n:]
	}
	return all.String() + texts[0] + texts[1]
}

// followed is what a follower of two gets, with the places at which the other one goes on marked.
func followed(pieces <-chan Piece) string {
	var all strings.Builder
	last := -1
	for p := range pieces {
		if p.Of != last {
			fmt.Fprintf(&all, "<%d>", p.Of)
			last = p.Of
		}
		all.Write(p.Text)
	}
	return all.String()
}

// What two streams got is read together in the order in which it came: while it comes, by who comes late, and
// afterwards.
func TestArrivals(t *testing.T) {
	t.Parallel()
	type piece struct {
		of   int
		text string
	}
	const limit = 12
	for name, test := range map[string]struct {
		come    []piece
		live    string
		kept    string // as followed too
		written string // from the texts
		order   []int
	}{
		"nothing":               {},
		"one alone":             {come: []piece{{1, "e"}, {1, "f"}}, live: "<1>ef", kept: "<1>ef", written: "ef"},
		"one after the other":   {come: []piece{{0, "o"}, {1, "e"}}, live: "<0>o<1>e", kept: "<0>o<1>e", written: "oe"},
		"by turns":              {come: []piece{{0, "o\n"}, {1, "e\n"}, {0, "p\n"}, {0, "q\n"}, {1, "f\n"}}, live: "<0>o\n<1>e\n<0>p\nq\n<1>f\n", kept: "<0>o\n<1>e\n<0>p\nq\n<1>f\n", written: "o\ne\np\nq\nf\n", order: []int{2, 2, 4, 2}},
		"the second first":      {come: []piece{{1, "e"}, {0, "o"}, {1, "f"}}, live: "<1>e<0>o<1>f", kept: "<1>e<0>o<1>f", written: "eof", order: []int{0, 1, 1, 1}},
		"the middle is not all": {come: []piece{{0, "0123456789"}, {1, "e"}, {0, "abcdefgh"}, {1, "f"}, {0, "i"}}, live: "<0>0123456789<1>e<0>abcdefgh<1>f<0>i", kept: "<0>012345\n[… 7 bytes left out …]\n<1>e<0>defgh<1>f<0>i", written: "012345\n[… 7 bytes left out …]\nedefghfi", order: []int{34, 1, 5, 1, 1}},
		"half a character":      {come: []piece{{0, "\xc3"}, {1, "e"}, {0, "\xb6"}}, live: "<0>\xc3<1>e<0>\xb6", kept: "<0>\xc3<1>e<0>\xb6", written: "\xc3e\xb6", order: []int{1, 1, 1}},
		"no text":               {come: []piece{{0, "a\xff"}, {1, "e"}, {0, "b"}}, live: "<0>a\xff<1>e<0>b", kept: "<0>a\xff<1>e<0>b", written: "a\uFFFDbe"},
	} {
		first, second := NewCapture(limit, nil), NewCapture(limit, nil)
		order := NewArrivals(first, second)
		live, _ := Follow(first, second)
		for _, p := range test.come {
			_, _ = io.WriteString(order.of[p.of], p.text)
		}
		late, _ := Follow(first, second)
		first.Close()
		second.Close()
		after, _ := Follow(first, second)
		for when, got := range map[string]<-chan Piece{"live": live, "late": late, "afterwards": after} {
			want := test.kept
			if when == "live" {
				want = test.live
			}
			if diff := cmp.Diff(want, followed(got)); diff != "" {
				t.Errorf("%s, %s: %s", name, when, diff)
			}
		}
		out, _, _ := first.Text()
		err, _, _ := second.Text()
		got := order.InText()
		if diff := cmp.Diff(test.order, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(test.written, read(out, err, got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// However often two streams take turns, their order takes no more room, and is kept roughly.
func TestArrivalsOfVeryMany(t *testing.T) {
	t.Parallel()
	const turns = 50_000
	first, second := NewCapture(1<<20, nil), NewCapture(1<<20, nil)
	order := NewArrivals(first, second)
	for range turns {
		_, _ = io.WriteString(first, "o")
		_, _ = io.WriteString(second, "e")
	}
	out, _, _ := first.Text()
	err, _, _ := second.Text()
	got := order.InText()
	if len(got) > maxPieces || len(got) < maxPieces/4 {
		t.Errorf("it takes %d pieces", len(got))
	}
	text := read(out, err, got)
	if n := strings.Count(text[:turns], "o"); len(text) != 2*turns || n < 4*turns/10 || n > 6*turns/10 {
		t.Errorf("of the first half of %d, %d are of the first", len(text), n)
	}
}

// The place of what comes is noted before a follower can have it, who may answer it before anything else is done.
func TestArrivalsAreNotedFirst(t *testing.T) {
	t.Parallel()
	stdout, stderr := NewCapture(100, nil), NewCapture(100, nil)
	a := NewArrivals(stdout, stderr)
	f := newFollower()
	stdout.followers[f] = 0
	a.mu.Lock()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = stdout.Write([]byte("out"))
	}()
	stacks := make([]byte, 1<<20)
	eventually(t, "the place is about to be noted", func() bool {
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("(*Arrivals).note("))
	})
	f.mu.Lock()
	if len(f.pending) > 0 {
		t.Error("a follower had it before")
	}
	f.mu.Unlock()
	a.mu.Unlock()
	<-written
}
