//go:build !faults

package reconcile

import "time"

// propertyTime is for how long new rounds of random edits begin; the build tag faults makes it more.
const propertyTime = 8 * time.Second
