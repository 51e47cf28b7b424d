package store_test

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// A peer that is gone without a word, as after a pulled cable, is noticed by the ping.
func TestListenerNoticesAHalfOpenConnection(t *testing.T) {
	t.Parallel()
	direct := storetest.NewURL(t)
	proxy := newProxy(t, direct)
	s := storetest.Open(t, proxy.url)
	l := listen(t, s)
	queue, leave := l.Subscribe(store.ChannelQueue)
	defer leave()
	waitListening(t, s, l)
	drain(queue)
	proxy.silence()
	next(t, queue, nothing)
	other := storetest.Open(t, direct)
	enqueue(t, other, store.NewExecution{Action: "a.x"})
	next(t, queue, anything)
}

// proxy stands between a store and its server, and cuts connections on demand.
type proxy struct {
	url    string
	armed  atomic.Bool
	after  atomic.Bool
	epoch  atomic.Int64 // connections of a former one say nothing any more, and stay open
	trips  atomic.Int64 // how often the server was ready for more
	server string
}

func newProxy(t *testing.T, direct string) *proxy {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	if query.Get("host") == "" {
		t.Skip("the server is not reached by a unix socket")
	}
	dir, err := os.MkdirTemp("", "attune-proxy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	name := ".s.PGSQL." + query.Get("port")
	p := &proxy{server: filepath.Join(query.Get("host"), name)}
	query.Set("host", dir)
	u.RawQuery = query.Encode()
	p.url = u.String()
	listener, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return p
}

// cutAtCommit cuts the next connection that commits: before the server has seen that, or after it has
// done so and before the client hears of it.
func (p *proxy) cutAtCommit(after bool) {
	p.after.Store(after)
	p.armed.Store(true)
}

// silence makes the connections that are open fall silent in both directions.
func (p *proxy) silence() { p.epoch.Add(1) }

func (p *proxy) serve(client net.Conn) {
	epoch := p.epoch.Load()
	server, err := net.Dial("unix", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	var cut atomic.Bool // COMMIT was seen, and its answer is to be lost
	var both sync.WaitGroup
	both.Go(func() {
		forward(client, server, func(message string) (pass, end bool) {
			if p.armed.Load() && strings.Contains(message, "COMMIT") {
				p.armed.Store(false)
				cut.Store(true)
				return p.after.Load(), !p.after.Load()
			}
			return p.epoch.Load() == epoch, false
		})
	})
	both.Go(func() {
		forward(server, client, func(message string) (pass, end bool) {
			p.trips.Add(int64(strings.Count(message, "Z\x00\x00\x00\x05"))) // ReadyForQuery
			if cut.Load() && strings.Contains(message, "COMMIT\x00") {
				return false, true
			}
			return p.epoch.Load() == epoch, false
		})
	})
	both.Wait()
}

// forward copies from one connection to the other, as far as the filter lets it, and closes both.
func forward(from, to net.Conn, filter func(message string) (pass, end bool)) {
	defer func() {
		_ = from.Close()
		_ = to.Close()
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			pass, end := filter(string(buffer[:n]))
			if end {
				return
			}
			if pass {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}
