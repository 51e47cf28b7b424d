package webhook

import "github.com/attune-io/attune/daemon/pace"

const (
	// requestRate and requestBurst bound the requests of one address for one trigger, a second: a
	// provider that sends more comes again later.
	requestRate  = 50
	requestBurst = 200

	// underWay and underWayEach bound the requests that are read or committed at once, in all and of one
	// address: with the bound of a body they bound the memory.
	underWay     = 256
	underWayEach = 32
)

// sender is one address and what it asks for.
type sender struct{ ref, address string }

// limits are what senders may do. The zero value is not usable.
type limits struct {
	rates  *pace.Rates[sender]
	places *pace.Places
}

func newLimits() *limits {
	return &limits{rates: pace.NewRates[sender](requestRate, requestBurst), places: pace.NewPlaces(underWay, underWayEach)}
}
