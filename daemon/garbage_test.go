package daemon

import "testing"

func TestGarbageIsBounded(t *testing.T) {
	t.Parallel()
	for inUse, want := range map[uint64]int{
		0: 100, 5 << 20: 100, 64 << 20: 100, 128 << 20: 50, 256 << 20: 25, 4 << 30: 25,
	} {
		if have := garbagePercent(inUse); have != want {
			t.Errorf("with %d MiB in use: %d%%, want %d%%", inUse>>20, have, want)
		}
	}
}
