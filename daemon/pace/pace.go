// Package pace bounds what strangers may ask of a server: how often, and how much at once, in bounded memory.
package pace

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the limiters that are kept; beyond it those that have not been asked lately go, and what is
// left shares one.
const maxBuckets = 10_000

// Rates bound how often something may happen, for each key. They are safe for concurrent use.
type Rates[K comparable] struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	buckets map[K]*rate.Limiter
	rest    *rate.Limiter // of those that have no bucket of their own
}

// NewRates allows so many in a second, and a burst of them at once.
func NewRates[K comparable](perSecond float64, burst int) *Rates[K] {
	limit := rate.Limit(perSecond)
	return &Rates[K]{perSecond: limit, burst: burst, buckets: map[K]*rate.Limiter{}, rest: rate.NewLimiter(limit, burst)}
}

// Allow says whether it may happen now, and counts it if so.
func (r *Rates[K]) Allow(key K, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	bucket := r.buckets[key]
	if bucket == nil {
		if len(r.buckets) >= maxBuckets {
			r.sweep(now)
		}
		if len(r.buckets) >= maxBuckets {
			return r.rest.AllowN(now, 1)
		}
		bucket = rate.NewLimiter(r.perSecond, r.burst)
		r.buckets[key] = bucket
	}
	return bucket.AllowN(now, 1)
}

// sweep forgets those whose bucket is full again: a new one is as good. It needs r.mu.
func (r *Rates[K]) sweep(now time.Time) {
	for key, bucket := range r.buckets {
		if bucket.TokensAt(now) >= float64(r.burst) {
			delete(r.buckets, key)
		}
	}
}

// Places bound how many requests are under way at once, in all and for each address.
type Places struct {
	most, mostEach int

	mu   sync.Mutex
	all  int
	each map[string]int
}

// NewPlaces makes room for so many.
func NewPlaces(most, mostEach int) *Places {
	return &Places{most: most, mostEach: mostEach, each: map[string]int{}}
}

// Enter takes a place; false: there is none. Who has one leaves it.
func (p *Places) Enter(address string) (leave func(), ok bool) {
	return p.enter(Block(address), p.mostEach)
}

// enterUncounted is Enter for an address that may have as many as there are.
func (p *Places) enterUncounted(address string) (leave func(), ok bool) {
	return p.enter(address, p.most)
}

func (p *Places) enter(address string, mostEach int) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= p.most || p.each[address] >= mostEach {
		return nil, false
	}
	p.all++
	p.each[address]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.each[address]--; p.each[address] == 0 {
			delete(p.each, address)
		}
	}, true
}

// Taken is how many places are taken.
func (p *Places) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

// Block is what counts as one address: of IPv6 everybody has 2^64.
func Block(address string) string {
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

// Remote is the address of who asks. A proxy on this machine says for whom it does; what stands before that in
// the header is the asker's own word. Empty: a unix socket has no addresses.
func Remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
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

// IsLoopback says whether an address is one of this machine alone.
func IsLoopback(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.Unmap().IsLoopback()
}
