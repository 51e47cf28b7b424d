package faults

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a node and the database, over TCP, and lets a test do what networks do. It is
// made transparent; each of its methods may be called at any time.
type proxy struct {
	testing.TB
	listener net.Listener
	network  string // of the server
	address  string
	running  sync.WaitGroup

	mu sync.Mutex
	// moved is told of each change of what follows; it is closed and made anew.
	moved chan struct{}
	hole  bool
	shut  bool
	pairs map[*pair]struct{}
	// seen, where set, is handed what a client sends before it is passed on.
	seen func(sent []byte) verdict
}

// verdict is what a test does with what a client sent.
type verdict int

const (
	passOn    verdict = iota
	cutBefore         // the server never gets it
	cutAfter          // the server gets it, and the client never hears
)

// pair is one connection and its other half.
type pair struct{ client, server net.Conn }

func (p *pair) close() {
	p.client.Close()
	p.server.Close()
}

// newProxy makes a proxy for the database of a URL, and gives the URL that leads through it.
func newProxy(t testing.TB, rawURL string) (p *proxy, through string) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme == "" {
		t.Fatalf("cannot read the database's URL: %v", err)
	}
	p = &proxy{TB: t, network: "tcp", address: u.Host, moved: make(chan struct{}), pairs: map[*pair]struct{}{}}
	query := u.Query()
	host, port := query.Get("host"), query.Get("port")
	switch {
	case strings.HasPrefix(host, "/"):
		if port == "" {
			port = "5432"
		}
		p.network, p.address = "unix", filepath.Join(host, ".s.PGSQL."+port)
	case u.Port() == "":
		p.address = net.JoinHostPort(u.Hostname(), "5432")
	}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	query.Del("host")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.Host, u.RawQuery = p.listener.Addr().String(), query.Encode()
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p, u.String()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	if !p.wait() { // in a black hole even the handshake hangs
		client.Close()
		return
	}
	server, err := net.Dial(p.network, p.address)
	if err != nil {
		client.Close()
		return
	}
	one := &pair{client, server}
	p.mu.Lock()
	p.pairs[one] = struct{}{}
	if p.shut {
		one.close()
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(one, server, client, true) })
	both.Go(func() { p.pass(one, client, server, false) })
	both.Wait()
	p.mu.Lock()
	delete(p.pairs, one)
	p.mu.Unlock()
}

// pass copies in one direction until either side ends.
func (p *proxy) pass(one *pair, to, from net.Conn, sent bool) {
	defer one.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		seen := p.seen
		p.mu.Unlock()
		if !p.wait() {
			return
		}
		what := passOn
		if sent && seen != nil {
			what = seen(buffer[:n])
		}
		if what == cutBefore {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil || what == cutAfter {
			return
		}
	}
}

// wait lets pass outside of a black hole. It is false at the proxy's end.
func (p *proxy) wait() bool {
	for {
		p.mu.Lock()
		hole, shut, moved := p.hole, p.shut, p.moved
		p.mu.Unlock()
		switch {
		case shut:
			return false
		case !hole:
			return true
		}
		<-moved
	}
}

func (p *proxy) change(how func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how()
	close(p.moved)
	p.moved = make(chan struct{})
}

// cut ends every connection that there is; new ones are served.
func (p *proxy) cut() {
	p.change(func() {
		for one := range p.pairs {
			one.close()
		}
	})
}

// blackhole takes everything and passes nothing on, without ending a connection, until it is called with
// false: then what was sent meanwhile arrives.
func (p *proxy) blackhole(on bool) { p.change(func() { p.hole = on }) }

// watch has a test look at all that clients send, and say what becomes of it and of the connection.
func (p *proxy) watch(seen func(sent []byte) verdict) { p.change(func() { p.seen = seen }) }

func (p *proxy) close() {
	p.listener.Close()
	p.change(func() {
		p.shut = true
		for one := range p.pairs {
			one.close()
		}
	})
	p.running.Wait()
}

// TestProxy looks at the harness itself: what a test cuts must be cut.
func TestProxy(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	p, through := newProxy(t, y.url)
	y.url = through
	if have := y.query("SELECT 1"); fmt.Sprint(have) != "[1]" {
		t.Fatalf("through the proxy: %v", have)
	}
	n := y.node()
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+through)
	n.start()
	p.cut()
	n.until("it has connected again", func() bool { return n.metric("attune_db_reconnects_total") > 0 })
	n.until("it is ready again", n.ready)
	p.blackhole(true)
	n.until("it misses the database", func() bool { return !n.ready() })
	p.blackhole(false)
	n.until("it is ready after the hole", n.ready)
}
