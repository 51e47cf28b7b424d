package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInheritedListeners(t *testing.T) {
	t.Parallel()
	file := func(network, address string) *os.File {
		t.Helper()
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	path := filepath.Join(shortDir(t), "a.sock")
	listeners, err := listenersOf([]*os.File{file("unix", path), file("tcp", "127.0.0.1:0")})
	if err != nil || len(listeners) != 2 || listeners[0].Addr().String() != path || listeners[1].Addr().Network() != "tcp" {
		t.Fatalf("found %v, %v", listeners, err)
	}
	for _, l := range listeners {
		l.Close()
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenersOf([]*os.File{file("tcp", "127.0.0.1:0"), null}); err == nil || !strings.Contains(err.Error(), "expected a listening stream socket") {
		t.Errorf("a file that is no socket: found %v", err)
	}
	if none, err := Inherited(); err != nil || none != nil {
		t.Errorf("without systemd: found %v, %v", none, err)
	}
}
