package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificatePeriod is how often it is looked whether the files have changed. Links that are turned, as
// Kubernetes and certbot do, are noticed like this too.
const certificatePeriod = 10 * time.Second

// certificate is what TCP is served with, read anew when its files change. A new one that cannot be used leaves
// the old one in place.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	reloads           *prometheus.CounterVec
	expiry            prometheus.Gauge

	current atomic.Pointer[tls.Certificate]
	asked   chan struct{}
}

// loadCertificate reads the files for the first time; nil: there are none.
func loadCertificate(c HTTPConfig, log *slog.Logger, registerer prometheus.Registerer) (*certificate, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	one := &certificate{
		certFile: c.TLSCert, keyFile: c.TLSKey, log: log, asked: make(chan struct{}, 1),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_tls_reloads_total", Help: "How often the certificate was read anew, by outcome: done or failed.",
		}, []string{"outcome"}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate that TCP is served with expires.",
		}),
	}
	for _, outcome := range []string{"done", "failed"} {
		one.reloads.WithLabelValues(outcome)
	}
	registerer.MustRegister(one.reloads, one.expiry)
	if err := one.load(); err != nil {
		return nil, err
	}
	return one, nil
}

// CheckCertificate tells whether the files of http.tls_cert and http.tls_key are there and belong together.
func (c *Config) CheckCertificate() error {
	if c.HTTP.TLSCert == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(c.HTTP.TLSCert, c.HTTP.TLSKey); err != nil {
		return fmt.Errorf("cannot load the certificate of http.tls_cert and http.tls_key: %w", err)
	}
	return nil
}

// load reads the files, and serves what they hold from now on.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("cannot load the certificate of http.tls_cert and http.tls_key: %v", err)
	}
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		c.log.Warn("the certificate has expired", "file", c.certFile, "at", pair.Leaf.NotAfter)
	}
	c.expiry.Set(float64(pair.Leaf.NotAfter.Unix()))
	c.current.Store(&pair)
	return nil
}

// config is how TCP is served.
func (c *certificate) config() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// serves says whether a name is one of the certificate's.
func (c *certificate) serves(name string) bool {
	return c != nil && c.current.Load().Leaf.VerifyHostname(name) == nil
}

// ask has the files read now.
func (c *certificate) ask() {
	if c == nil {
		return
	}
	select {
	case c.asked <- struct{}{}:
	default:
	}
}

// run reads the files anew whenever they change, until ctx ends.
func (c *certificate) run(ctx context.Context) {
	if c == nil {
		return
	}
	look := time.NewTicker(certificatePeriod)
	defer look.Stop()
	loaded, before := c.state(), c.state()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.asked:
			loaded = c.state()
			c.reload()
		case <-look.C:
			// Two files are not written at one moment: they are read when they have come to rest.
			now := c.state()
			if now != loaded && now == before {
				loaded = now
				c.reload()
			}
			before = now
		}
	}
}

func (c *certificate) reload() {
	old := c.current.Load().Leaf
	if err := c.load(); err != nil {
		c.reloads.WithLabelValues("failed").Inc()
		c.log.Error("certificate not reloaded, the old one stays", "err", err, "old_expires", old.NotAfter)
		return
	}
	c.reloads.WithLabelValues("done").Inc()
	c.log.Info("certificate reloaded", "file", c.certFile, "names", c.current.Load().Leaf.DNSNames, "expires", c.current.Load().Leaf.NotAfter)
}

// fileState tells two contents of a file apart.
type fileState struct {
	size int64
	time time.Time
}

// state is that of both files; a file that cannot be read has none.
func (c *certificate) state() (states [2]fileState) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			states[i] = fileState{info.Size(), info.ModTime()}
		}
	}
	return states
}
