package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/daemon/pace"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Catalogs gives the newest snapshot that is at least of the generation (0: whatever is newest).
type Catalogs interface {
	Catalog(ctx context.Context, generation int64) (*store.Catalog, error)
}

// Events takes an event and waits until it is stored; rule.Intake is it.
type Events interface {
	Submit(ctx context.Context, e store.NewEvent) (store.StoredEvent, error)
}

// Sensors tells of the sensors' processes; sensor.Supervisor is it.
type Sensors interface {
	List() []sensor.Info
	Logs(ctx context.Context, ref string, follow bool, after int64) (lines <-chan sensor.LogLine, journal string, ok bool)
	Restart(ref string) bool
	Try(ctx context.Context, ref string, trial sensor.Trial) (child.Exit, error)
}

// Workers tells of the running actions; worker.Pool is it.
type Workers interface {
	Follow(ctx context.Context, executionID int64) (chunks <-chan worker.Chunk, attempt int)
	Stats() worker.Stats
}

// Reconciler is the loop from files to database; reconcile.Reconciler is it.
type Reconciler interface {
	Plan(ctx context.Context) (*reconcile.Plan, error)
	ReloadForced(ctx context.Context, by, pack string) (*reconcile.Report, error)
	Rollback(ctx context.Context, pack string, revision int, by, reason string) (*reconcile.Report, error)
	Unpin(ctx context.Context, pack, by string) (*reconcile.Report, error)
	Difference(ctx context.Context, pack, from, to string) (*reconcile.Difference, error)
	Status() reconcile.Status
}

// Notices gives the payloads of a NOTIFY channel; store.Listener is it.
type Notices interface {
	Subscribe(channel string) (<-chan string, func())
}

// Info is what does not change while the daemon runs.
type Info struct {
	Version        string
	Node           string
	PID            int
	StartedAt      time.Time
	StateDirectory string
	Directories    []string // of packs
	Interpreters   []child.Interpreter
	Trees          child.Trees
	// Database describes it without what is measured; PID is the private server's.
	Database DatabaseStatus
}

// Options are what a Server needs.
type Options struct {
	// Socket is the path of the unix socket. Listen is host:port for TCP; empty: none.
	Socket string
	Listen string
	TLS    *tls.Config // nil: plain HTTP
	// Inherited are listeners for these two that somebody else has opened, and keeps open.
	Inherited []net.Listener
	// ServesHost says under which names, beside addresses and localhost, TCP is served; nil: under none.
	ServesHost func(name string) bool

	Info       Info
	Store      *store.Store
	Access     Access
	Catalogs   Catalogs
	Events     Events
	Rules      Rules
	PackConfig func(pack string) map[string]any // the merged configuration of a pack
	Sensors    Sensors
	Workers    Workers
	// Environments may be nil: then no pack has any.
	Environments Environments
	// Webhooks may be nil: then none are served.
	Webhooks   Webhooks
	Keys       Keys
	Reconciler Reconciler
	Notices    Notices
	// Trust says whose signatures of packs count.
	Trust reconcile.Trust
	// OperatorConfig is [packs.config] of a pack, and ConfigPlace where a key of it stands; nil: there is none.
	OperatorConfig func(pack string) map[string]any
	ConfigPlace    func(pack, key string) manifest.Place
	// Unready says why the daemon is not ready; nothing: it is. Degraded says what else is wrong.
	Unready  func(ctx context.Context) []string
	Degraded func() []string
	// DatabasePID gives the private server's process id; nil: there is none.
	DatabasePID func() int
	Gatherer    prometheus.Gatherer
	Registerer  prometheus.Registerer // nil: refusals are not counted
	Logger      *slog.Logger
}

// Server answers requests on the unix socket and on TCP.
type Server struct {
	opts Options
	log  *slog.Logger

	socket *socket
	tcp    net.Listener // nil: TCP is off

	limits   *limits
	keyring  *keyring
	refusals *refusals
	feeds    feeds

	// stopping is closed when the streams have to end, before the other requests have.
	stopping chan struct{}
	stop     func()
}

// New opens the socket and the TCP address, and serves nothing yet: what connects now waits for Run.
// A Server that is never run is to be closed.
func New(opts Options) (*Server, error) {
	s := &Server{opts: opts, log: opts.Logger, stopping: make(chan struct{}), limits: newLimits(), keyring: newKeyring(opts.Access)}
	s.refusals = newRefusals(opts.Logger, opts.Registerer, opts.Access.Audit)
	s.feeds = s.newFeeds()
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	local, tcp, err := inherited(opts.Inherited, opts.Socket, opts.Listen)
	if err != nil {
		return nil, err
	}
	if local != nil {
		s.socket, err = inheritSocket(opts.Socket, local)
	} else {
		s.socket, err = listenSocket(opts.Socket, s.log)
	}
	if err != nil {
		return nil, err
	}
	if opts.Listen == "" {
		return s, nil
	}
	if s.tcp = tcp; tcp == nil {
		s.tcp, err = net.Listen("tcp", loopbackHost(opts.Listen))
	}
	if err != nil {
		s.socket.close()
		return nil, fmt.Errorf("cannot listen on %s: %v; set http.listen to another address, or to \"\" for none", opts.Listen, listenCause(err))
	}
	s.tcp = pace.Listen(s.tcp, pace.NewPlaces(connected, connectedEach), func(address string) {
		s.refusals.note(refusedRate, "", address)
	})
	if opts.TLS != nil {
		s.tcp = tls.NewListener(s.tcp, opts.TLS)
	}
	return s, nil
}

// loopbackHost fills in the host that a bare ":9753" means here: an API must not open itself to the
// network by an omission.
func loopbackHost(listen string) string {
	if host, port, err := net.SplitHostPort(listen); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

func listenCause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// Socket is the path of the unix socket.
func (s *Server) Socket() string { return s.opts.Socket }

// URL is where TCP is served, "http://127.0.0.1:9753"; empty: nowhere.
func (s *Server) URL() string {
	switch {
	case s.tcp == nil:
		return ""
	case s.opts.TLS != nil:
		return "https://" + s.tcp.Addr().String()
	default:
		return "http://" + s.tcp.Addr().String()
	}
}

// Close gives up the addresses of a server that does not run.
func (s *Server) Close() {
	s.stop()
	s.socket.close()
	if s.tcp != nil {
		_ = s.tcp.Close() // it fails only where it was closed before
	}
}

const (
	// headerTimeout bounds a client that connects and then says nothing, or says it slowly.
	headerTimeout = 10 * time.Second

	// readTimeout and writeTimeout bound a request over TCP, header, body and answer, whoever sends it and
	// however slowly; a webhook's body has a shorter time of its own. Over the socket answers stream, and
	// whoever may open it needs no bounds.
	readTimeout  = 30 * time.Second
	writeTimeout = time.Minute

	// idleTimeout is how long a connection is kept between requests: longer than a scrape's interval.
	idleTimeout = 2 * time.Minute

	// shutdownTimeout bounds the requests that are under way when the server stops. Streams end at
	// once, and all others take milliseconds.
	shutdownTimeout = 3 * time.Second

	// maxHeaderBytes is ample for a client that sends no cookies.
	maxHeaderBytes = 64 << 10
)

// Run serves until ctx ends; then streams are ended with a last line, the other requests are
// finished, and the addresses are given up.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	// Requests outlive ctx by the shutdown; whatever still runs after it is cut off.
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	handler := s.handler()
	full := s.server(requests, identify(trust(handler)))
	full.ConnContext = withPeer
	servers := []*http.Server{full}
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- full.Serve(s.socket) })
	if s.tcp != nil {
		public := s.server(requests, identify(s.gate(handler)))
		public.ReadTimeout, public.WriteTimeout = readTimeout, writeTimeout
		servers = append(servers, public)
		wg.Go(func() { failed <- public.Serve(s.tcp) })
	}
	wg.Go(func() { s.recordUses(requests) })
	wg.Go(func() { s.keyring.watch(requests) })
	wg.Go(func() { s.refusals.run(requests) })
	wg.Go(func() { s.feeds.pump(requests) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("cannot go on serving: %v", err)
	}
	s.stop()
	bounded, cancel := context.WithTimeout(requests, shutdownTimeout)
	defer cancel()
	for _, server := range servers {
		if server.Shutdown(bounded) != nil {
			cut()
			_ = server.Close() // what is left of its connections is cut
		}
	}
	cut()
	wg.Wait()
	return err
}

// recordUses writes down which tokens are used, from time to time until ctx ends, and once more then.
func (s *Server) recordUses(ctx context.Context) {
	period := time.NewTicker(usesPeriod)
	defer period.Stop()
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-period.C:
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), usesTimeout)
		if err := s.keyring.record(bounded); err != nil {
			s.log.Debug("the use of tokens is not recorded yet", "err", err)
		}
		cancel()
	}
}

func (s *Server) server(ctx context.Context, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
