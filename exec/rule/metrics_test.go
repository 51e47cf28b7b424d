package rule

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestTheLastCounter(t *testing.T) {
	t.Parallel()
	m := newMetrics(nil)
	c := lastCounter{vec: m.enforcements}
	for _, of := range []string{"a", "a", "b", "a", "b", "b", "b"} {
		c.of(of, "matched").Inc()
	}
	c.of("b", "error").Inc()
	for labels, want := range map[[2]string]float64{{"a", "matched"}: 3, {"b", "matched"}: 4, {"b", "error"}: 1} {
		if got := testutil.ToFloat64(m.enforcements.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: counted %v, want %v", labels, got, want)
		}
	}
}
