//go:build !faults

package reconcile

// propertySeeds are always the same, as a change must not fail by what it did not touch. The build tag faults
// draws others each time. The last one has packs that name each other, one of them refused, a pack a round.
func propertySeeds() []int { return []int{1, 2, 3, 4, 5, 6, 644553532} }
