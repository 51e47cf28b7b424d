package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/user"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon/webhook"
)

// peerKey is the context key of who stands at the other end of the socket.
type peerKey struct{}

// withPeer notes, once a connection, which user connected: the kernel says so, nobody can lie.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	name, err := peer(conn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, name)
}

// peer gives the user at the other end of a unix socket.
func peer(conn net.Conn) (string, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return "", fmt.Errorf("cannot tell who is at %s", conn.RemoteAddr())
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return "", err
	}
	var credential *unix.Ucred
	var credentialErr error
	if err := raw.Control(func(fd uintptr) {
		credential, credentialErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return "", err
	}
	if credentialErr != nil {
		return "", credentialErr
	}
	uid := strconv.FormatUint(uint64(credential.Uid), 10)
	if found, err := user.LookupId(uid); err == nil {
		return found.Username, nil
	}
	return "uid " + uid, nil
}

// caller is who asks, for rows that say by whom something was done.
func caller(ctx context.Context) string {
	if name, ok := ctx.Value(peerKey{}).(string); ok {
		return name
	}
	return "unknown"
}

// public are the paths that anybody may read.
func public(asked string) bool {
	switch asked {
	case pathMetrics, pathHealthy, pathReady:
		return true
	}
	return false
}

// ownCheck says whether a path checks its callers itself: a proxy here hands on webhooks for whatever host
// the internet knows it by, and a browser is refused there for good.
func ownCheck(asked string) bool { return strings.HasPrefix(path.Clean(asked), webhook.Path) }

// gate is the rule for TCP: health and metrics are for everybody on this machine, webhooks for whoever
// proves that they may, everything else is for the socket. A page in somebody's browser must not reach even those, whatever name its own
// server's address has been given in DNS.
func (s *Server) gate(next http.Handler) http.Handler {
	inner := http.NewCrossOriginProtection()
	inner.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeError(w, r, newError(CodeForbidden, "cannot take a request from another site", ""))
	}))
	open := inner.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case ownCheck(r.URL.Path):
			next.ServeHTTP(w, r)
		case !localHost(r.Host):
			writeError(w, r, newError(CodeForbidden, fmt.Sprintf("cannot serve host %q here", r.Host),
				"use an address (127.0.0.1) or localhost; a proxy has to send it as Host"))
		case !public(r.URL.Path):
			writeError(w, r, newError(CodeForbidden, fmt.Sprintf("cannot serve %s over TCP: only health, metrics and webhooks are", r.URL.Path),
				"use the unix socket: curl --unix-socket "+s.opts.Socket+" http://attune"+r.URL.Path))
		default:
			open.ServeHTTP(w, r)
		}
	})
}

// localHost says whether a Host header is an address or localhost. A name from DNS may be an attacker's
// that was pointed here.
func localHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return strings.EqualFold(name, "localhost") || strings.HasSuffix(strings.ToLower(name), ".localhost")
}
