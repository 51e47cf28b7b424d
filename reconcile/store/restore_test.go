package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// Of two restores at once one is refused, and nothing of what the other holds is touched; so is a restore beside a
// migration, which holds the same lock.
func TestOneRestoreAtATime(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	one, err := store.Replace(t.Context(), url, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{true, false} {
		if two, err := store.Replace(t.Context(), url, force); err == nil || !strings.Contains(err.Error(), "another restore, or a migration, is under way") {
			t.Errorf("a second, with force %v: %v, %v", force, two, err)
		}
	}
	if err := one.PutBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Replace(t.Context(), url, false); !errors.Is(err, store.ErrOccupied) {
		t.Errorf("what was there is not there: %v", err)
	}
	// Whoever was refused has let go of the lock.
	again, err := store.Replace(t.Context(), url, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.PutBack(t.Context()); err != nil {
		t.Error(err)
	}
}
