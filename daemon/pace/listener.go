package pace

import (
	"net"
	"sync"
)

// Listener takes connections only as long as there are places for them. Each costs a descriptor before anything
// was asked, and without descriptors nothing else works either.
type Listener struct {
	net.Listener
	places  *Places
	refused func(address string)
}

// Listen bounds what inner accepts by places. Connections from this machine, where a proxy stands for all the
// others, count only among all. Whatever has no place is closed at once, and its address told.
func Listen(inner net.Listener, places *Places, refused func(address string)) *Listener {
	return &Listener{Listener: inner, places: places, refused: refused}
}

// Accept gives the next connection that has a place.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address, _, err := net.SplitHostPort(conn.RemoteAddr().String())
		if err != nil {
			address = conn.RemoteAddr().String()
		}
		enter := l.places.Enter
		if IsLoopback(address) {
			enter = l.places.enterUncounted
		}
		leave, ok := enter(address)
		if !ok {
			_ = conn.Close() // nobody waits for what it would say
			l.refused(address)
			continue
		}
		return &connection{Conn: conn, leave: sync.OnceFunc(leave)}, nil
	}
}

// connection leaves its place when it is closed.
type connection struct {
	net.Conn
	leave func()
}

func (c *connection) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
