package webhook

import "github.com/prometheus/client_golang/prometheus"

// The outcomes of a request beside the reasons for which it is not believed.
const (
	outcomeAccepted    = "accepted"
	outcomeDuplicate   = "duplicate"
	outcomeChallenge   = "challenge"   // Slack asked whether somebody is here
	outcomeInvalid     = "invalid"     // believed, and its payload does not fit the trigger
	outcomeUnavailable = "unavailable" // it could not be stored in time
	outcomeBrowser     = "browser"
	outcomeLimited     = "limited"   // too many of one sender
	outcomeBusy        = "busy"      // too many at once
	outcomeTooLarge    = "too_large" // its body
	outcomeSlow        = "slow"      // its body did not come in time, or not as a whole
)

type metrics struct{ requests *prometheus.CounterVec }

// newMetrics registers the metrics; a nil Registerer leaves them unregistered. The trigger is empty
// where a request is refused before anybody looks, or names no webhook: strangers make no labels.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attune_webhook_requests_total", Help: "Requests to webhooks, by trigger (empty: none that is known) and outcome.",
	}, []string{"trigger", "outcome"})}
	for _, outcome := range []string{
		reasonUnknown, outcomeUnavailable, outcomeBrowser, outcomeLimited, outcomeBusy, outcomeTooLarge, outcomeSlow,
	} {
		m.requests.WithLabelValues("", outcome)
	}
	if registerer != nil {
		registerer.MustRegister(m.requests)
	}
	return m
}
