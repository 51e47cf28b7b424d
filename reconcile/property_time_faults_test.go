//go:build faults

package reconcile

// propertySeeds gives none: as many as fit into propertyTime are drawn.
func propertySeeds() []int { return nil }
