//go:build faults

package reconcile

// 0: any seed, and as many rounds as fit into propertyTime.
const (
	propertySeed   = 0
	propertyRounds = 0
)
