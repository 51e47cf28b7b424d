package daemon

import (
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// Inherited gives the sockets that systemd has opened for this process, by a socket unit. It takes them out of the
// environment: they are not for children.
func Inherited() ([]net.Listener, error) { return listenersOf(activation.Files(true)) }

// listenersOf makes listeners of descriptors, which are closed.
func listenersOf(files []*os.File) (listeners []net.Listener, err error) {
	for _, file := range files {
		l, listenErr := net.FileListener(file)
		file.Close()
		if listenErr != nil {
			err = fmt.Errorf("cannot serve %s, which systemd has opened: expected a listening stream socket: %v", file.Name(), listenErr)
			continue
		}
		listeners = append(listeners, l)
	}
	if err != nil {
		for _, l := range listeners {
			_ = l.Close() // the error at hand says more
		}
		return nil, err
	}
	return listeners, nil
}
