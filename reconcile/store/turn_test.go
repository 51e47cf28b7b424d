package store

import (
	"testing"
	"time"
)

// The longer a look at the queue takes, the longer it counts and the more is looked up, within bounds.
func TestPriceOfALook(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		took, life time.Duration
		depth      int
	}{
		{0, aheadLife, 64},
		{5 * time.Millisecond, aheadLife, 64},
		{20 * time.Millisecond, 200 * time.Millisecond, 4 * 64},
		{time.Minute, aheadLifeMost, 10 * 64},
	} {
		var turn turn
		if n := turn.depth(4); n != aheadLeast {
			t.Errorf("before any look %d are looked up", n)
		}
		turn.price(test.took)
		if n := turn.depth(4); n != test.depth || turn.life != test.life {
			t.Errorf("after a look of %v, %d are looked up for %v, expected %d for %v", test.took, n, turn.life, test.depth, test.life)
		}
		if n := turn.depth(aheadMost); n != aheadMost {
			t.Errorf("%d are looked up at once", n)
		}
		ids, at := []int64{1, 2, 3}, time.Now()
		turn.look(ids, true, at)
		if left, _, _ := turn.next(1, at.Add(test.life)); len(left) != len(ids) {
			t.Error("it is forgotten before its time")
		}
		if left, _, _ := turn.next(1, at.Add(test.life+1)); len(left) != 0 {
			t.Error("it is not forgotten")
		}
	}
}
