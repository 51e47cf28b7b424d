package pace

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
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

// What there is no bucket for shares one, and who has asked a moment ago is not forgotten for that.
func TestLimitersThatShare(t *testing.T) {
	t.Parallel()
	const burst = 3
	r := NewRates[int](1, burst)
	now := time.Unix(1700000000, 0)
	for key := range maxBuckets {
		r.Allow(key, now)
	}
	for i := range burst {
		if !r.Allow(maxBuckets+i, now) {
			t.Errorf("stranger %d is refused", i)
		}
	}
	if r.Allow(2*maxBuckets, now) {
		t.Error("the strangers together have more than one address")
	}
	for range burst - 1 {
		r.Allow(0, now)
	}
	if r.Allow(0, now) {
		t.Error("the bucket of one that is known was emptied")
	}
	if !r.Allow(0, now.Add(time.Second)) || r.Allow(0, now.Add(time.Second)) {
		t.Error("a second fills it by other than one")
	}
}

// Places are bounded in all and for each address, of which a network of IPv6 is one.
func TestPlaces(t *testing.T) {
	t.Parallel()
	p := NewPlaces(3, 2)
	var leave []func()
	for _, c := range []struct {
		address string
		ok      bool
	}{
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::3", false}, {"192.0.2.7", true}, {"192.0.2.8", false},
	} {
		left, ok := p.Enter(c.address)
		if ok != c.ok {
			t.Errorf("%s: %v, want %v", c.address, ok, c.ok)
		}
		if ok {
			leave = append(leave, left)
		}
	}
	for _, left := range leave {
		left()
	}
	if p.Taken() != 0 || len(p.each) != 0 {
		t.Errorf("%d places taken by %d addresses when all have left", p.Taken(), len(p.each))
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
			r.Header.Add("X-Forwarded-For", "203.0.113.9") // the asker's own
			r.Header.Add("X-Forwarded-For", c.forwarded)
		}
		if got := Remote(r); got != c.want {
			t.Errorf("%q and %q: %q, want %q", c.peer, c.forwarded, got, c.want)
		}
	}
	if a, b, c := Block("2001:db8::1"), Block("2001:db8::2"), Block("2001:db8:0:1::1"); a != b || a == c {
		t.Errorf("blocks %q, %q, %q", a, b, c)
	}
}

// What has no place is closed, and a place is free again when its connection is; this machine's connections are
// bounded only by what there is in all.
func TestListenerBoundsConnections(t *testing.T) {
	t.Parallel()
	inner := &queueListener{conns: make(chan net.Conn, 10)}
	var refused []string
	l := Listen(inner, NewPlaces(4, 2), func(address string) { refused = append(refused, address) })
	come := func(address string) *fakeConn {
		c := &fakeConn{address: address}
		inner.conns <- c
		return c
	}
	accept := func() net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	come("192.0.2.7:1")
	come("192.0.2.7:2")
	first, _ := accept(), accept()
	third := come("192.0.2.7:3")
	come("127.0.0.1:4")
	come("127.0.0.1:5")
	accept()
	accept()
	if !third.closed || len(refused) != 1 || refused[0] != "192.0.2.7" {
		t.Errorf("a third of one address: closed %v, refused %q", third.closed, refused)
	}
	fifth := come("127.0.0.1:6")
	close(inner.conns)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || !fifth.closed {
		t.Errorf("beyond all places: %v, closed %v", err, fifth.closed)
	}
	for range 2 { // closing twice leaves once
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.places.Taken(); n != 3 {
		t.Errorf("%d places taken, want 3", n)
	}
}

type queueListener struct {
	net.Listener
	conns chan net.Conn
}

func (l *queueListener) Accept() (net.Conn, error) {
	c, open := <-l.conns
	if !open {
		return nil, net.ErrClosed
	}
	return c, nil
}

type fakeConn struct {
	net.Conn
	address string
	closed  bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.address))
}
func (c *fakeConn) Close() error { c.closed = true; return nil }
