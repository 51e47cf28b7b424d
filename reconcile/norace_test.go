//go:build !race

package reconcile

// raceEnabled says that the race detector watches, which takes memory.
const raceEnabled = false
