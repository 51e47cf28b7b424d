package reconcile

import (
	"maps"
	"slices"
	"testing"
	"time"
)

func TestWindows(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type step struct {
		at   time.Duration
		path string
		what change
	}
	tests := map[string]struct {
		steps []step
		empty bool // what appeared has no content yet
		want  time.Duration
	}{
		"written in place": {
			steps: []step{{0, "a", changed}, {10 * ms, "a", changed}},
			want:  260 * ms,
		},
		"renamed into place": {
			steps: []step{{0, "a", appeared}},
			want:  25 * ms,
		},
		"created and then written": {
			steps: []step{{0, "a", appeared}, {1 * ms, "a", changed}},
			want:  251 * ms,
		},
		"created and not yet written": {
			steps: []step{{0, "a", appeared}},
			empty: true,
			want:  250 * ms,
		},
		"temporary file with a name of its own, renamed over": {
			steps: []step{{0, "a.123", appeared}, {1 * ms, "a.123", changed}, {2 * ms, "a.123", vanishing}, {2 * ms, "a", appeared}},
			want:  27 * ms,
		},
		"backup by renaming, then written anew": {
			steps: []step{{0, "a", vanishing}, {1 * ms, "a", appeared}},
			want:  251 * ms,
		},
		"two renamed into place": {
			steps: []step{{0, "a", appeared}, {5 * ms, "b", appeared}},
			want:  255 * ms,
		},
		"removed": {
			steps: []step{{0, "a", vanishing}},
			want:  250 * ms,
		},
		"written for ever": {
			steps: func() (all []step) {
				for at := time.Duration(0); at < 3*time.Second; at += 100 * ms {
					all = append(all, step{at, "a", changed})
				}
				return all
			}(),
			want: 2 * time.Second,
		},
		"many paths": {
			steps: func() (all []step) {
				for i := range 20 {
					all = append(all, step{0, string(rune('a' + i)), appeared})
				}
				return all
			}(),
			want: 250 * ms,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWindows(250*ms, 2*time.Second)
			start := time.Unix(1_000_000, 0)
			whole := func(string) bool { return !test.empty }
			for now, i := start, 0; ; now = now.Add(ms) {
				for ; i < len(test.steps) && !start.Add(test.steps[i].at).After(now); i++ {
					w.note("pack", test.steps[i].path, test.steps[i].what, now)
				}
				since, next := w.due(now, whole)
				if len(since) > 0 {
					if have := now.Sub(start); have != test.want {
						t.Errorf("due after %s, want %s", have, test.want)
					}
					if !since["pack"].Equal(start) {
						t.Errorf("first change at %s", since["pack"].Sub(start))
					}
					break
				}
				if next.IsZero() || !next.After(now) {
					t.Fatalf("asked to look again at %s, which is not after %s", next, now)
				}
				if now.Sub(start) > 5*time.Second {
					t.Fatal("never due")
				}
			}
		})
	}
}

// A file that is written a thousand times a second for half a minute is looked at each two seconds, and once more
// when it is quiet.
func TestStorm(t *testing.T) {
	t.Parallel()
	const storm, longest, quiet = 30 * time.Second, 2 * time.Second, 250 * time.Millisecond
	w := newWindows(quiet, longest)
	start := time.Unix(1_000_000, 0)
	var have, want []time.Duration
	for at := time.Duration(0); at <= storm+longest; at += time.Millisecond {
		now := start.Add(at)
		if at < storm {
			w.note("pack", "a", changed, now)
		}
		if since, _ := w.due(now, func(string) bool { return true }); len(since) > 0 {
			have = append(have, at)
		}
	}
	// The next window opens with the write after a look.
	last := longest
	for ; last < storm; last += longest + time.Millisecond {
		want = append(want, last)
	}
	want = append(want, min(last, storm-time.Millisecond+quiet))
	if !slices.Equal(have, want) {
		t.Errorf("looked at after %v, want %v", have, want)
	}
}

func TestWindowsOfPacksAreTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWindows(250*time.Millisecond, 2*time.Second)
	start := time.Unix(1_000_000, 0)
	w.note("busy", "a", changed, start)
	w.note("calm", "b", changed, start)
	w.note("busy", "a", changed, start.Add(200*time.Millisecond))
	w.again("later", start.Add(time.Second), start)
	none := func(string) bool { return false }
	since, next := w.due(start.Add(250*time.Millisecond), none)
	if !maps.Equal(since, map[string]time.Time{"calm": start}) || !next.Equal(start.Add(450*time.Millisecond)) {
		t.Errorf("due %v, next after %s", since, next.Sub(start))
	}
	if !w.isOpen("busy") || w.isOpen("calm") {
		t.Error("the wrong windows are open")
	}
	if all := w.take(); len(all) != 2 || w.isOpen("busy") {
		t.Errorf("took %v", all)
	}
}

func TestIgnored(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		".git", ".venv", ".x.yaml.swp", ".#lock", "x.yaml~", "#x.yaml#", "4913", "x.swp", "x.swx", "x.tmp", "__pycache__",
		"node_modules", "x.pyc", "x.yaml___jb_tmp___", "x.yaml___jb_old___", "sedX1a2b3", "..data", "..2026_01_01",
	} {
		if !ignored(name) {
			t.Errorf("%s is not ignored", name)
		}
	}
	for _, name := range []string{"x.yaml", "4914", "sed.sh", "sedative", "sedatives", "x.swift", "tmp", "#x", "lib", "x.json"} {
		if ignored(name) {
			t.Errorf("%s is ignored", name)
		}
	}
}
