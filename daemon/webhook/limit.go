package webhook

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// requestRate and requestBurst bound the requests of one address for one trigger, a second: a
	// provider that sends more comes again later.
	requestRate  = 50
	requestBurst = 200

	// maxSenders bounds the limiters that are kept; beyond it those that have not seen a request lately
	// go, and what is left shares one.
	maxSenders = 10_000

	// underWay and underWayEach bound the requests that are read or committed at once, in all and of one
	// address: with the bound of a body they bound the memory.
	underWay     = 256
	underWayEach = 32
)

// sender is one address and what it asks for.
type sender struct{ ref, address string }

// limits are what senders may do. The zero value is not usable.
type limits struct {
	mu      sync.Mutex
	buckets map[sender]*rate.Limiter
	rest    *rate.Limiter // of those that have no bucket of their own
	each    map[string]int
	all     int
}

func newLimits() *limits {
	return &limits{
		buckets: map[sender]*rate.Limiter{}, rest: rate.NewLimiter(requestRate, requestBurst), each: map[string]int{},
	}
}

// allow says whether the sender may ask now.
func (l *limits) allow(s sender, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.address = block(s.address)
	bucket := l.buckets[s]
	if bucket == nil {
		if len(l.buckets) >= maxSenders {
			l.sweep(now)
		}
		if len(l.buckets) >= maxSenders {
			return l.rest.AllowN(now, 1)
		}
		bucket = rate.NewLimiter(requestRate, requestBurst)
		l.buckets[s] = bucket
	}
	return bucket.AllowN(now, 1)
}

// sweep forgets those whose bucket is full again: a new one is as good. It needs l.mu.
func (l *limits) sweep(now time.Time) {
	for s, bucket := range l.buckets {
		if bucket.TokensAt(now) >= requestBurst {
			delete(l.buckets, s)
		}
	}
}

// enter takes a place among the requests under way; false: there is none. Who has one leaves it.
func (l *limits) enter(address string) (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	address = block(address)
	if l.all >= underWay || l.each[address] >= underWayEach {
		return nil, false
	}
	l.all++
	l.each[address]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all--
		if l.each[address]--; l.each[address] == 0 {
			delete(l.each, address)
		}
	}, true
}

// block is what counts as one address: of IPv6 everybody has 2^64.
func block(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Is4() {
		return address
	}
	const network = 64
	prefix, err := ip.WithZone("").Prefix(network)
	if err != nil {
		return address
	}
	return prefix.String()
}

// remoteOf is the address of the sender. A proxy on this machine says for whom it asks; what stands
// before that in the header is the sender's own word.
func remoteOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "" // the unix socket has no addresses
	}
	peer, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	peer = peer.Unmap()
	if values := r.Header.Values("X-Forwarded-For"); peer.IsLoopback() && len(values) > 0 {
		list := strings.Split(values[len(values)-1], ",")
		last := strings.TrimSpace(list[len(list)-1])
		if port, err := netip.ParseAddrPort(last); err == nil {
			return port.Addr().Unmap().String()
		}
		if told, err := netip.ParseAddr(strings.Trim(last, "[]")); err == nil {
			return told.Unmap().String()
		}
	}
	return peer.String()
}
