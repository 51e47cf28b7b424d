//go:build race

package faults

// raceDetector says that memory and time are the race detector's rather than the daemon's.
const raceDetector = true
