package api

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortDir gives a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "att")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func listen(path string) (*socket, error) { return listenSocket(path, slog.New(slog.DiscardHandler)) }

// What the service manager has opened is served, where the configuration says, and stays when the daemon ends.
func TestInheritedSockets(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "a.sock")
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	local.SetUnlinkOnClose(false)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := tcp.Addr().String()
	for name, opts := range map[string]Options{
		"another path":    {Socket: path + "x", Listen: address},
		"another address": {Socket: path, Listen: "127.0.0.1:1"},
		"every address":   {Socket: path, Listen: "0.0.0.0:" + address[strings.LastIndex(address, ":")+1:]},
		"none":            {Socket: path},
	} {
		opts.Inherited, opts.Access, opts.Logger = []net.Listener{local, tcp}, &fakes{}, slog.New(slog.DiscardHandler)
		if _, err := New(opts); err == nil || !strings.Contains(err.Error(), "ListenStream=") {
			t.Errorf("%s: found %v", name, err)
		}
	}
	server, err := New(Options{Socket: path, Listen: address, Inherited: []net.Listener{local, tcp}, Access: &fakes{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if server.URL() != "http://"+address || server.Socket() != path {
		t.Errorf("it serves %s and %s", server.URL(), server.Socket())
	}
	if _, err := New(Options{Socket: path, Access: &fakes{}, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a second daemon took the socket")
	}
	server.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket went with the daemon: %v", err)
	}
	if _, err := local.Accept(); err == nil {
		t.Error("the daemon's end of it is open still")
	}
}

func TestSocketIsMadeAndRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "new", "a.sock")
	s, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("found %v, %v; want a socket of mode 0660", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("found %v, %v; want a folder of mode 0755, whatever the umask", info, err)
	}
	s.Close()
	s.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stayed: %v", err)
	}
	again, err := listen(path)
	if err != nil {
		t.Fatalf("the path cannot be used again: %v", err)
	}
	again.Close()
}

func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "a.sock")
	s, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if second, err := listen(path); err == nil {
		second.Close()
		t.Fatal("two daemons listen on one socket")
	} else if want := "cannot listen on socket " + path + ": another daemon serves there"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("found %v, want %s", err, want)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first one's socket is broken: %v", err)
	}
	conn.Close()
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "a.sock")
	for _, left := range []string{path, path + ".new"} {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
	}
	s, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestWhatIsNotOursIsNotRemoved(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign")
	other, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for path, want := range map[string]string{
		file: "found a file that is no socket", link: "found a file that is no socket", foreign: "something serves there",
		filepath.Join(file, "a.sock"): "not a directory",
	} {
		if s, err := listen(path); err == nil {
			s.Close()
			t.Errorf("%s: accepted", path)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v, want %s", path, err, want)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
}
