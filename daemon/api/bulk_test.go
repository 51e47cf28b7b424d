package api

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// Who waits for an end when the daemon stops is told of what ended last, and else to ask again.
func TestEndsAreLookedForWhenTheDaemonStops(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			stopping, looks := make(chan struct{}), 0
			found, err := awaitEnds(t.Context(), time.Minute, nil, stopping, func() ([]store.End, error) {
				looks++
				if looks == 1 {
					close(stopping) // the end comes between two looks
				}
				if looks > 2 {
					t.Fatal("it looks on")
				}
				if ends && looks > 1 {
					return []store.End{{ID: 17}}, nil
				}
				return nil, nil
			})
			told, isTold := errors.AsType[*Error](err)
			if ends && (err != nil || len(found) != 1 || found[0].ID != 17) || !ends && (!isTold || told.Code != CodeUnavailable) {
				t.Errorf("ends %v: found %v, %v", ends, found, err)
			}
			if looks != 2 {
				t.Errorf("ends %v: %d looks", ends, looks)
			}
		})
	}
}
