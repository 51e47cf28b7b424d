package store

import (
	"slices"
	"testing"
	"time"
)

// step is a look at one sign of life: so long after the last look, by this clock and by the database's.
type step struct {
	after  time.Duration
	jumped time.Duration // how far the database's clock was put forward meanwhile
	renews bool
	lives  bool
}

func TestVigil(t *testing.T) {
	t.Parallel()
	const half = LeaseDuration / 2
	for name, test := range map[string]struct {
		age   time.Duration // of the first sign, at the first look
		first bool          // whether that is a living one
		steps []step
	}{
		"renews":                            {0, true, []step{{half, 0, true, true}, {half, 0, true, true}, {half, 0, true, true}}},
		"falls silent":                      {half, true, []step{{half - 1, 0, false, true}, {1, 0, false, false}, {time.Hour, 0, false, false}}},
		"was silent before anybody looked":  {LeaseDuration, false, nil},
		"comes back":                        {time.Hour, false, []step{{half, 0, true, true}}},
		"the clock is put forward":          {0, true, []step{{half, time.Hour, false, true}, {half - 1, 0, false, true}, {1, 0, false, false}}},
		"the clock is put forward after it": {0, true, []step{{half, time.Hour, true, true}, {half, 0, true, true}}},
		"the clock is put back":             {0, true, []step{{half, -time.Hour, true, true}, {half, 0, false, true}, {half, 0, false, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v vigil
			here, there := time.Unix(1e9, 0), time.Unix(2e9, 0)
			sent := there.Add(-test.age)
			look := func() bool {
				v.look(here, []sign{{name: "n", at: sent, age: there.Sub(sent)}})
				return slices.Contains(v.living(here), "n")
			}
			if got := look(); got != test.first {
				t.Errorf("at first it lives: %v", got)
			}
			for i, s := range test.steps {
				here, there = here.Add(s.after), there.Add(s.after)
				if s.renews {
					sent = there // just before the look, and before the clock jumped
				}
				there = there.Add(s.jumped)
				if got := look(); got != s.lives {
					t.Errorf("step %d: it lives: %v", i, got)
				}
			}
		})
	}
}
