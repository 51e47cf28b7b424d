//go:build !faults

package reconcile

// propertySeeds are always the same, as a change must not fail by what it did not touch. The build tag faults
// draws others each time. The last ones have packs that name each other, one of them refused and a pack a round,
// and a pack that comes back although an operator has switched it off.
func propertySeeds() []int { return []int{1, 2, 3, 4, 5, 6, 644553532, 243602586} }
