package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// garbageRoom is how much garbage may gather before it is collected, in bytes: enough that it comes seldom, and,
	// where much is in use, not as much again. An idle daemon makes less between two collections that Go does by the
	// clock.
	garbageRoom = 40 << 20
	// startPercent is GOGC until the packs are loaded: what a start reads of unchanged packs is nearly all kept, and
	// to look through it again and again while it grows takes a quarter of the whole start.
	startPercent = 200
	// loadingPercent is GOGC from when very many packs are parsed until they are loaded: most of what is made then
	// is garbage at once, and three times as much would be taken as is needed.
	loadingPercent = 50
	// leastPercent bounds what the collector is made to work. mostPercent is for a few packs: a burst of events makes
	// eighty megabytes of garbage a second, and to collect it whenever there is as much as is in use took a fifth
	// of the processor; but a flood is not to cost more than 20 MB of memory.
	leastPercent = 25
	mostPercent  = 150
)

// setPercent sets GOGC. Where the environment does, that is obeyed.
func setPercent(getenv func(string) string, percent int) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// boundLoading keeps the memory in bounds while very many packs are loaded at a start. Later on boundGarbage has.
func (d *Daemon) boundLoading() {
	select {
	case <-d.reconciler.Ready():
	default:
		setPercent(os.Getenv, loadingPercent)
	}
}

// boundGarbage gives back what loading the packs took, and keeps the collector from letting the memory
// double: with ten thousand packs a hundred megabytes are in use for good. GOGC, where set, is obeyed.
func boundGarbage(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	debug.SetGCPercent(garbagePercent(stats.HeapAlloc))
}

// garbagePercent is what GOGC has to be with so much in use; Go's own is 100.
func garbagePercent(inUse uint64) int {
	return int(min(max(garbageRoom*100/max(inUse, 1), leastPercent), mostPercent))
}
