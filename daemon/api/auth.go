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
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon/pace"
	"github.com/attune-io/attune/daemon/webhook"
)

const (
	// requestRate and requestBurst bound the requests over TCP of one token, or of one address without one, a
	// second: far more than people and scripts need, and far less than the daemon can do.
	requestRate  = 200
	requestBurst = 1000

	// failureRate and failureBurst bound the answers to bad tokens of one address, a second. Whoever has a good
	// one is served beside that: behind one address there are many.
	failureRate  = 1
	failureBurst = 20

	// underWay and underWayEach bound the requests over TCP that are under way at once, streams included, in all
	// and of one address.
	underWay     = 1024
	underWayEach = 256

	// connected and connectedEach bound the TCP connections, in all and of one address: far fewer than the
	// descriptors that a service gets, whatever whoever connects then says.
	connected     = 4096
	connectedEach = 512
)

// limits are what may be asked over TCP.
type limits struct {
	requests *pace.Rates[string]
	failures *pace.Rates[string]
	places   *pace.Places
}

func newLimits() *limits {
	return &limits{
		requests: pace.NewRates[string](requestRate, requestBurst),
		failures: pace.NewRates[string](failureRate, failureBurst),
		places:   pace.NewPlaces(underWay, underWayEach),
	}
}

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

// originSocket is the origin of what comes over the unix socket.
const originSocket = "unix socket"

// trust lets whoever may open the socket do everything: the file's permission is the check.
func trust(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := r.Context().Value(peerKey{}).(string)
		if !ok {
			name = "unknown"
		}
		next.ServeHTTP(w, r.WithContext(withVisitor(r.Context(), visitor{name: name, origin: originSocket, scope: ScopeAdmin})))
	})
}

// public are the paths that anybody on this machine may read.
func public(asked string) bool {
	switch asked {
	case pathMetrics, pathHealthy, pathReady:
		return true
	case pathDocument, pathDocs: // they are the same everywhere, and browsers have no token
		return true
	}
	return false
}

// ownCheck says whether a path checks its callers itself: a proxy here hands on webhooks for whatever host
// the internet knows it by, and a browser is refused there for good.
func ownCheck(asked string) bool { return strings.HasPrefix(path.Clean(asked), webhook.Path) }

// gate is the rule for TCP. Webhooks are for whoever proves that they may. Health and metrics are for everybody on
// this machine, and everything else, from wherever, wants a token; who has none gets one answer, whatever is
// asked for. A page in somebody's browser must not reach any of it, whatever name its own server's address has
// been given in DNS.
func (s *Server) gate(next http.Handler) http.Handler {
	inner := http.NewCrossOriginProtection()
	inner.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refusals.note(refusedSite, "", pace.Remote(r))
		writeError(w, r, newError(CodeForbidden, "cannot take a request from another site", ""))
	}))
	known := inner.Handler(s.bound(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.authenticate(w, r, next)
	})))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case ownCheck(r.URL.Path):
			next.ServeHTTP(w, r)
		case !s.servesHost(r.Host):
			s.refusals.note(refusedHost, "", pace.Remote(r))
			writeError(w, r, newError(CodeForbidden, fmt.Sprintf("cannot serve host %.100q here", r.Host),
				"use an address, localhost, a name of the certificate, or one of http.hosts"))
		default:
			known.ServeHTTP(w, r)
		}
	})
}

// bound keeps what is under way at once within its bounds.
func (s *Server) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leave, ok := s.limits.places.Enter(pace.Remote(r))
		if !ok {
			s.tooMany(w, r, "")
			return
		}
		defer leave()
		next.ServeHTTP(w, r)
	})
}

// authenticate finds out who asks, and hands on what they may ask for.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, next http.Handler) {
	origin := pace.Remote(r)
	token, given := bearer(r.Header)
	if !given {
		if !public(r.URL.Path) || !pace.IsLoopback(origin) {
			s.unauthorized(w, r, origin)
			return
		}
		if !s.limits.requests.Allow("address "+pace.Block(origin), time.Now()) {
			s.tooMany(w, r, "")
			return
		}
		next.ServeHTTP(w, r.WithContext(withVisitor(r.Context(), visitor{name: "anybody", origin: origin})))
		return
	}
	found, err := s.keyring.find(r.Context(), token)
	switch {
	case err != nil:
		writeError(w, r, newError(CodeUnavailable, "cannot check tokens now", "the database is away; try again"))
		return
	case found == nil:
		s.unauthorized(w, r, origin)
		return
	}
	v := visitor{name: "token " + found.Name, origin: origin, scope: Scope(found.Scope), pack: found.Pack}
	if !s.limits.requests.Allow(v.name, time.Now()) {
		s.tooMany(w, r, v.name)
		return
	}
	ctx, leave := s.keyring.visit(r.Context(), found.ID)
	defer leave()
	next.ServeHTTP(w, r.WithContext(withVisitor(ctx, v)))
}

// bearer gives the token of a request; false: it has none.
func bearer(header http.Header) (token string, given bool) {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// unauthorized answers who is not known: always the same, whatever is wrong and whatever was asked for.
func (s *Server) unauthorized(w http.ResponseWriter, r *http.Request, origin string) {
	if !s.limits.failures.Allow(pace.Block(origin), time.Now()) {
		s.tooMany(w, r, "")
		return
	}
	s.refusals.note(refusedToken, "", origin)
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeError(w, r, newError(CodeUnauthorized, "cannot tell who asks: a good token is wanted",
		"name one by ATTUNE_TOKEN or ATTUNE_TOKEN_FILE, as header Authorization: Bearer TOKEN; `attune token create` makes one on the daemon's machine"))
}

// tooMany answers who asks too often, or too much at once.
func (s *Server) tooMany(w http.ResponseWriter, r *http.Request, name string) {
	s.refusals.note(refusedRate, name, pace.Remote(r))
	w.Header().Set("Retry-After", "5")
	writeError(w, r, newError(CodeTooMany, "cannot take so many requests at once", "come again later"))
}

// servesHost says whether a Host header is one that the daemon answers to. Any other name may be an attacker's
// that was pointed here.
func (s *Server) servesHost(host string) bool {
	name := hostName(host)
	return localName(name) || s.opts.ServesHost != nil && s.opts.ServesHost(name)
}

// hostName is a Host header without its port.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// localName says whether a name is an address or localhost.
func localName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return strings.EqualFold(name, "localhost") || strings.HasSuffix(strings.ToLower(name), ".localhost")
}
