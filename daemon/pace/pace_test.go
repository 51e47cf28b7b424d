package pace

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Strangers with ever new addresses take no memory for ever.
func TestLimitersAreForgotten(t *testing.T) {
	t.Parallel()
	r := NewRates[string](50, 200)
	now := time.Unix(1700000000, 0)
	for i := range maxBuckets + 5 {
		r.Allow(fmt.Sprint(i), now)
	}
	if len(r.buckets) != maxBuckets {
		t.Errorf("%d limiters, want %d", len(r.buckets), maxBuckets)
	}
	if !r.Allow("later", now.Add(time.Minute)) || len(r.buckets) != 1 {
		t.Errorf("%d limiters a minute later, want 1", len(r.buckets))
	}
}

func TestRemote(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ peer, forwarded, want string }{
		{"192.0.2.7:1", "", "192.0.2.7"},
		{"192.0.2.7:1", "1.1.1.1", "192.0.2.7"},
		{"127.0.0.1:1", "", "127.0.0.1"},
		{"127.0.0.1:1", "1.1.1.1", "1.1.1.1"},
		{"127.0.0.1:1", "evil, 1.1.1.1", "1.1.1.1"},
		{"127.0.0.1:1", "1.1.1.1, 2.2.2.2:443", "2.2.2.2"},
		{"[::1]:1", "2001:db8::1", "2001:db8::1"},
		{"[::1]:1", "[2001:db8::1]", "2001:db8::1"},
		{"[::ffff:127.0.0.1]:1", "1.1.1.1", "1.1.1.1"},
		{"127.0.0.1:1", "unknown", "127.0.0.1"},
		{"@", "1.1.1.1", ""},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = c.peer
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := Remote(r); got != c.want {
			t.Errorf("%q and %q: %q, want %q", c.peer, c.forwarded, got, c.want)
		}
	}
	if a, b, c := Block("2001:db8::1"), Block("2001:db8::2"), Block("2001:db8:0:1::1"); a != b || a == c {
		t.Errorf("blocks %q, %q, %q", a, b, c)
	}
}
