package daemon

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestBlockedCounter(t *testing.T) {
	t.Parallel()
	b := newBlockedCounter(prometheus.NewRegistry())
	b.recorded("core.http_request", []byte(`{"status_code": 0, "success": false, "blocked": true}`))
	b.recorded("core.http_request", []byte(`{"status_code": 200, "body": "\"blocked\": true", "success": true}`))
	b.recorded("core.http_request", []byte(`{"json": {"blocked": true}}`))
	b.recorded("core.http_request", []byte(`{"blocked": `))
	b.recorded("core.http_request", nil)
	b.recorded("other.http_request", []byte(`{"blocked": true}`))
	if n := testutil.ToFloat64(b.total); n != 1 {
		t.Errorf("counted %v, want 1", n)
	}
}
