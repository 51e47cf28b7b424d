//go:build !faults

package reconcile

// Rounds of random edits: always the same ones, as a change must not fail by what it did not touch. The build
// tag faults draws others each time.
const (
	propertySeed   = 1
	propertyRounds = 6
)
