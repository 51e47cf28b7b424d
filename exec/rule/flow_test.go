package rule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store"
)

// transactions is a stand-in for the store's groups. It notes what happens to them, by the events in
// them, and lets the test end a commit.
type transactions struct {
	*rig
	notes   []string
	commits chan error // the end of the next commit
	refuse  error      // of the next beginnings
}

func newTransactions(t *testing.T) *transactions {
	tr := &transactions{rig: newRig(t, catalogOf(t, 1, pack), &database{}), commits: make(chan error)}
	tr.begin = func(_ context.Context, events []store.NewEvent, ahead bool) (begun, error) {
		g := &transaction{tr, events}
		if tr.refuse != nil {
			return nil, tr.refuse
		}
		g.note(map[bool]string{true: "ahead", false: "begin"}[ahead])
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
	g.notes = append(g.notes, what+" "+strings.Join(ids, ","))
}

func (g *transaction) Commit(context.Context, store.Matcher) ([]store.StoredEvent, error) {
	err := <-g.commits
	g.note(fmt.Sprint("commit ", err))
	return make([]store.StoredEvent, len(g.events)), err
}

func (g *transaction) Rollback(context.Context) { g.note("rollback") }

// hand hands over one event, which is a group of its own.
func (tr *transactions) hand(t *testing.T, f *fates, n int) {
	t.Helper()
	if err := tr.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
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
