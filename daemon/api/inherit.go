package api

import (
	"fmt"
	"net"
)

// inherited finds among the sockets that the service manager has opened those that are served, nil where there is
// none. They have to be where the configuration says, which is where clients look and what is checked for who may come
// in.
func inherited(listeners []net.Listener, socket, listen string) (local, tcp net.Listener, err error) {
	for _, l := range listeners {
		switch addr := l.Addr().(type) {
		case *net.UnixAddr:
			if addr.Name != socket || local != nil {
				return nil, nil, fmt.Errorf("cannot serve socket %s, which the service manager has opened: http.socket is %s; make the socket unit's ListenStream= the same", addr.Name, socket)
			}
			local = l
		case *net.TCPAddr:
			wanted, err := net.ResolveTCPAddr("tcp", loopbackHost(listen))
			if listen == "" || err != nil || tcp != nil || !wanted.IP.Equal(addr.IP) && !(wanted.IP == nil && addr.IP.IsUnspecified()) || wanted.Port != addr.Port {
				return nil, nil, fmt.Errorf("cannot serve %s, which the service manager has opened: http.listen is %q; make the socket unit's ListenStream= the same", addr, listen)
			}
			tcp = l
		default:
			return nil, nil, fmt.Errorf("cannot serve %s %s, which the service manager has opened: expected a stream socket", addr.Network(), addr)
		}
	}
	return local, tcp, nil
}

// inheritSocket takes over a socket that the service manager has opened: it stays when the daemon ends, and
// connections wait in it until the next one.
func inheritSocket(path string, listener net.Listener) (*socket, error) {
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	s := &socket{Listener: listener, path: path, lock: lock}
	s.close = func() {
		_ = listener.Close() // it fails only where it was closed before
		lock.Release()
	}
	return s, nil
}
