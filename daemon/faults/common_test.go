package faults

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// common is the one node of those tests that break nothing but a pack of their own. It is a variable of
// the package, as the tests have nothing but the process in common.
var common sharing

// sharing starts its node when the first test asks, and ends it after the last.
type sharing struct {
	mu    sync.Mutex
	owner *lasting
	node  *node
}

// lasting stands for the process where a test is wanted.
type lasting struct {
	testing.TB
	cleanups []func()
}

func (l *lasting) Helper()                   {}
func (l *lasting) Cleanup(f func())          { l.cleanups = append(l.cleanups, f) }
func (l *lasting) Context() context.Context  { return context.Background() }
func (l *lasting) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (l *lasting) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (l *lasting) Error(args ...any)         { panic(fmt.Sprint(args...)) }
func (l *lasting) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (l *lasting) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (l *lasting) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// take gives a test its view of the common node, whose packs folder it shares with others: each test
// keeps to packs that are named after it. The regular scan is far off: what is found was noticed.
func (s *sharing) take(t *testing.T) *node {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		s.owner = &lasting{TB: t}
		y := newYard(s.owner)
		y.unpack(strings.ReplaceAll(demo, "demo", "other"))
		s.node = y.node(`reconcile.resync = "1h"`)
		s.node.yard = &yard{TB: t, dir: y.dir, packs: y.packs, url: y.url, nodes: y.nodes} // a failure is of the first test
		s.node.start()
		s.node.yard = y
	}
	view := *s.node
	view.yard = &yard{TB: t, dir: s.node.dir, packs: s.node.packs, url: s.node.url, nodes: s.node.nodes}
	return &view
}

// end stops the node.
func (s *sharing) end() {
	if s.owner == nil {
		return
	}
	for _, clean := range slices.Backward(s.owner.cleanups) {
		clean()
	}
}

// pack writes the demo pack under another name and waits until it is in force.
func (n *node) newPack(ref string) {
	n.Helper()
	n.unpack(strings.ReplaceAll(demo, "demo", ref))
	n.whole(ref)
}

// whole waits until all that the demo pack has is in force.
func (n *node) whole(ref string) {
	n.Helper()
	n.until("pack "+ref+" is in force", func() bool {
		p := n.pack(ref)
		return p != nil && len(p.Errors) == 0 && len(p.Rules) == 1 && len(p.Actions) == 1 && len(p.Sensors) == 1 && len(p.Triggers) == 1
	})
}

// revision is the number of a pack's newest revision; 0: there is none.
func (n *node) revision(ref string) int {
	if p := n.pack(ref); p != nil {
		return p.Revision
	}
	return 0
}

// label is the label of a rule that is in force; empty: there is none.
func (n *node) label(rule string) string {
	r, err := n.client.Rule(n.Context(), rule)
	if err != nil || !r.Enabled {
		return ""
	}
	return r.Label
}

// changes are the lines of a pack's history after a revision, oldest first.
func (n *node) changes(ref string, after int) []string {
	n.Helper()
	history, err := n.client.History(n.Context(), ref, 0)
	n.check(err)
	var lines []string
	for _, one := range slices.Backward(history) {
		if one.Number > after {
			lines = append(lines, one.Changes...)
		}
	}
	return lines
}

// settles waits until the pack is at a revision and a reload finds nothing more to do.
func (n *node) settles(ref string, revision int) {
	n.Helper()
	n.until(fmt.Sprintf("pack %s is at revision %d", ref, revision), func() bool { return n.revision(ref) >= revision })
	n.reload()
	if have := n.revision(ref); have != revision {
		n.Errorf("pack %s is at revision %d, want %d: %q", ref, have, revision, n.changes(ref, 0))
	}
}

// reload asks for a scan and waits for it.
func (n *node) reload() {
	n.Helper()
	_, err := n.client.Reload(n.Context(), "")
	n.check(err)
}

// prints runs an action and says whether that is what it prints.
func (n *node) prints(action, text string) bool {
	n.Helper()
	out, _, code := n.run("run", action)
	return code == 0 && out == text
}

// tree are the paths of a pack's newest revision.
func (n *node) tree(ref string) []string {
	n.Helper()
	return n.query(`SELECT file->>'path' FROM attune.pack JOIN attune.revision ON revision.id = pack.revision_id,
		jsonb_array_elements(revision.tree) AS file WHERE pack.ref = $1 ORDER BY 1`, ref)
}
