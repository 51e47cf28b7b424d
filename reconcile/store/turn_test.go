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
		var now turn
		if n := now.depth(4); n != aheadLeast {
			t.Errorf("before any look %d are looked up", n)
		}
		now.price(test.took)
		if n := now.depth(4); n != test.depth || now.life != test.life {
			t.Errorf("after a look of %v, %d are looked up for %v, expected %d for %v", test.took, n, now.life, test.depth, test.life)
		}
		if n := now.depth(aheadMost); n != aheadMost {
			t.Errorf("%d are looked up at once", n)
		}
		ids := []int64{1, 2, 3}
		now.look(ids, true)
		now.lookedUp = now.lookedUp.Add(time.Second - test.life)
		if left, _, _ := now.next(1); len(left) != len(ids) {
			t.Error("it is forgotten before its time")
		}
		now.lookedUp = now.lookedUp.Add(-time.Second)
		if left, _, _ := now.next(1); len(left) != 0 {
			t.Error("it is not forgotten")
		}
	}
}
