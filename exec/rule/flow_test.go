package rule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store"
)

// transactions is a stand-in for the store's groups. It notes what happens to them, by the events in
// them, and lets the test end a commit.
type transactions struct {
	*rig
	mu      sync.Mutex // of notes
	notes   []string
	commits chan error    // the end of the next commit
	refuse  error         // of the next beginnings
	numbers chan struct{} // has the next that is begun get its numbers; nil: at once
	rest    chan error    // the end of the next insertion, after that; nil: at once
}

func newTransactions(t *testing.T) *transactions {
	tr := &transactions{rig: newRig(t, catalogOf(t, 1, pack), &database{}), commits: make(chan error)}
	tr.begin = func(_ context.Context, events []store.NewEvent, ahead bool, numbered func()) (begun, error) {
		g := &transaction{tr, events}
		if tr.refuse != nil {
			return nil, tr.refuse
		}
		g.note(map[bool]string{true: "ahead", false: "begin"}[ahead])
		if tr.numbers != nil {
			<-tr.numbers
		}
		numbered()
		if tr.rest != nil {
			if err := <-tr.rest; err != nil {
				return nil, err
			}
		}
		return g, nil
	}
	return tr
}

type transaction struct {
	*transactions
	events []store.NewEvent
}

func (g *transaction) note(what string) {
	var ids []string
	for _, e := range g.events {
		ids = append(ids, e.EventID)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.notes = append(g.notes, what+" "+strings.Join(ids, ","))
}

func (g *transaction) Commit(context.Context, store.Matcher) ([]store.StoredEvent, error) {
	err := <-g.commits
	g.note(fmt.Sprint("commit ", err))
	return make([]store.StoredEvent, len(g.events)), err
}

func (g *transaction) Rollback(context.Context) { g.note("rollback") }

// hand hands over one event, which is so large that it is worth a group of its own beside another.
func (tr *transactions) hand(t *testing.T, f *fates, n int) {
	t.Helper()
	e := numbered(n)
	e.Cursor = make([]byte, someCost)
	if err := tr.SubmitAsync(t.Context(), e, f.of(n)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// Few events are no group beside another: they gather while it is committed and a little longer, unless many
// come meanwhile. Who hands over one after the other is alone, and waits for nothing.
func TestFewEventsGather(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, f := newTransactions(t), &fates{}
		committed := func() {
			tr.commits <- nil
			synctest.Wait()
		}
		begun := func(want ...string) {
			t.Helper()
			synctest.Wait()
			tr.mu.Lock()
			defer tr.mu.Unlock()
			var got []string
			for _, note := range tr.notes {
				if events, isBegin := strings.CutPrefix(note, "begin "); isBegin {
					got = append(got, events)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("begun groups: %s", diff)
			}
		}
		tr.many(t, f, 0, 1)
		begun("0")
		committed()
		tr.many(t, f, 1, 1)
		begun("0", "1") // alone, and no time has passed
		tr.many(t, f, 2, 1)
		tr.many(t, f, 3, 1)
		begun("0", "1")
		<-time.After(groupPace / 3)
		committed()
		begun("0", "1")
		<-time.After(groupPace/3*2 - 1)
		tr.many(t, f, 4, 1)
		begun("0", "1")
		<-time.After(groupPace)
		begun("0", "1", "2,3,4")
		tr.many(t, f, 5, 1)
		<-time.After(groupPace)
		committed()
		begun("0", "1", "2,3,4", "5") // it was long enough
		tr.many(t, f, 6, 1)
		committed()
		begun("0", "1", "2,3,4", "5")
		tr.hand(t, f, 7)
		begun("0", "1", "2,3,4", "5", "6,7") // it is worth it
		committed()
		tr.many(t, f, 8, 1)
		begun("0", "1", "2,3,4", "5", "6,7", "8") // alone again
		committed()
	})
}

func TestAGroupIsInsertedWhileTheOneBeforeIsCommitted(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		first error
		notes []string
		slow  []string
	}{
		"both well": {nil, []string{"begin 0", "ahead 1", "commit <nil> 0", "commit <nil> 1"}, nil},
		"the first fails": {
			errLasting, []string{"begin 0", "ahead 1", "commit permission denied 0", "rollback 1"}, []string{"0", "1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr, f := newTransactions(t), &fates{}
				tr.hand(t, f, 0)
				tr.hand(t, f, 1)
				if len(f.order) > 0 {
					t.Errorf("events %v are told of before they are committed", f.order)
				}
				tr.commits <- want.first
				synctest.Wait()
				if want.first == nil {
					if diff := cmp.Diff([]string{"0"}, f.order); diff != "" {
						t.Error(diff)
					}
					tr.commits <- nil
				}
				synctest.Wait()
				if diff := cmp.Diff(want.notes, tr.notes); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(want.slow, tr.database.ids()); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff([]string{"0", "1"}, f.order); diff != "" || len(f.errors) > 0 {
					t.Error(diff, f.errors)
				}
			})
		})
	}
}

// many hands over so many events at once, of which the first is n.
func (tr *transactions) many(t *testing.T, f *fates, n, count int) {
	t.Helper()
	for i := range count {
		if err := tr.SubmitAsync(t.Context(), numbered(n+i), f.of(n+i)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// Groups get their numbers one after the other, and two are inserted at once; a third waits until the first of them is
// committed.
func TestTwoGroupsAreInsertedAtOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first error
		notes int // once the third is begun
		ends  []string
		slow  int
	}{
		"all well":        {nil, 4, []string{"commit <nil>", "commit <nil>", "commit <nil>"}, 0},
		"the first fails": {errLasting, 5, []string{"commit permission denied", "rollback", "commit <nil>"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr, f := newTransactions(t), &fates{}
				begins := func(want int, why string) {
					t.Helper()
					synctest.Wait()
					tr.mu.Lock()
					defer tr.mu.Unlock()
					if len(tr.notes) != want {
						t.Fatalf("%s: there are %d notes, want %d", why, len(tr.notes), want)
					}
				}
				tr.numbers, tr.rest = make(chan struct{}), make(chan error)
				tr.hand(t, f, 0)
				tr.hand(t, f, 1)
				begins(1, "the first has no numbers")
				tr.numbers <- struct{}{}
				begins(2, "the first has its numbers")
				tr.numbers <- struct{}{}
				tr.many(t, f, 2, maxQueueEvents)
				begins(2, "two are inserted")
				for range 2 {
					tr.rest <- nil
				}
				begins(2, "two are inserted, and the first is being committed")
				tr.commits <- test.first
				begins(test.notes, "the first is at its end")
				tr.numbers <- struct{}{}
				tr.rest <- nil
				if test.first == nil {
					tr.commits <- nil
				}
				tr.commits <- nil
				synctest.Wait()
				var ends []string
				for _, note := range tr.notes {
					if kind, _, _ := strings.Cut(note, " "); kind == "rollback" {
						ends = append(ends, kind)
					} else if kind == "commit" {
						ends = append(ends, note[:strings.LastIndex(note, " ")])
					}
				}
				if diff := cmp.Diff(test.ends, ends); diff != "" {
					t.Error(diff)
				}
				if slow := len(tr.database.ids()); slow != test.slow {
					t.Errorf("%d events went the slow way, want %d", slow, test.slow)
				}
				if len(f.order) != 2+maxQueueEvents || len(f.errors) > 0 {
					t.Fatalf("%d fates, errors %v", len(f.order), f.errors)
				}
				for n, id := range f.order {
					if id != fmt.Sprint(n) {
						t.Fatalf("fate %d is that of event %s", n, id)
					}
				}
			})
		})
	}
}

// A group that cannot be inserted is told of after the one before it, whose commit ends when that is known.
func TestTheOrderOfFatesWhereAnInsertionFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, f := newTransactions(t), &fates{}
		tr.hand(t, f, 0)
		tr.rest = make(chan error, 1)
		tr.rest <- errors.New("no room")
		tr.hand(t, f, 1)
		tr.commits <- nil
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1"}, f.order); diff != "" {
			t.Error(diff)
		}
	})
}

// A group that cannot be begun waits for the one before it, and goes the other way.
func TestAGroupThatCannotBeInserted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, f := newTransactions(t), &fates{}
		tr.hand(t, f, 0)
		tr.refuse = errors.New("no connection")
		tr.hand(t, f, 1)
		if len(tr.database.ids()) > 0 {
			t.Error("it is stored before the one before it")
		}
		tr.commits <- nil
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1"}, f.order); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"1"}, tr.database.ids()); diff != "" {
			t.Error(diff)
		}
	})
}

// The end waits for what is being committed, and stores what came meanwhile.
func TestTheEndCommitsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, f := newTransactions(t), &fates{}
		tr.hand(t, f, 0)
		tr.end()
		synctest.Wait()
		select {
		case <-tr.ended:
			t.Error("it ended before the commit did")
		default:
		}
		tr.commits <- nil
		<-tr.ended
		if diff := cmp.Diff([]string{"0"}, f.order); diff != "" {
			t.Error(diff)
		}
	})
}
