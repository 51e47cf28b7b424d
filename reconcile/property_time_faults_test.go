//go:build faults

package reconcile

import "time"

const propertyTime = 10 * time.Minute
