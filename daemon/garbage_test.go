package daemon

import "testing"

func TestGarbageIsBounded(t *testing.T) {
	t.Parallel()
	for inUse, want := range map[uint64]int{
		0: 150, 5 << 20: 150, 32 << 20: 125, 40 << 20: 100, 80 << 20: 50, 160 << 20: 25, 4 << 30: 25,
	} {
		if have := garbagePercent(inUse); have != want {
			t.Errorf("with %d MiB in use: %d%%, want %d%%", inUse>>20, have, want)
		}
	}
}
