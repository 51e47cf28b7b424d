package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// writeCertificate makes a certificate of a name that signs itself.
func writeCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name, "localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestCertificateIsReloaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := writeCertificate(t, dir, "first.example")
		log := &lockedBuffer{}
		c, err := loadCertificate(HTTPConfig{TLSCert: certFile, TLSKey: keyFile}, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		go c.run(t.Context())
		synctest.Wait()
		step := 0
		check := func(what, serves string, done, failed float64) {
			t.Helper()
			if !c.serves(serves) {
				t.Errorf("%s: %s is not served", what, serves)
			}
			if d, f := testutil.ToFloat64(c.reloads.WithLabelValues("done")), testutil.ToFloat64(c.reloads.WithLabelValues("failed")); d != done || f != failed {
				t.Errorf("%s: %v reloads done, %v failed; want %v, %v", what, d, f, done, failed)
			}
		}
		// touch gives the files a time of their own, for the clock of the bubble is not that of the disk.
		touch := func() {
			step++
			for _, file := range []string{certFile, keyFile} {
				at := time.Unix(int64(step), 0)
				if err := os.Chtimes(file, at, at); err != nil {
					t.Fatal(err)
				}
			}
		}
		pass := func() {
			time.Sleep(certificatePeriod) //nolint:forbidigo // of a bubble
			synctest.Wait()
		}
		check("at first", "first.example", 0, 0)
		pass()
		check("nothing changed", "first.example", 0, 0)

		writeCertificate(t, dir, "second.example")
		touch()
		pass()
		check("not at rest yet", "first.example", 0, 0)
		pass()
		check("changed", "second.example", 1, 0)

		if err := os.WriteFile(keyFile, []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		touch()
		pass()
		pass()
		check("broken", "second.example", 1, 1)
		pass()
		check("still broken, and told once", "second.example", 1, 1)

		writeCertificate(t, dir, "third.example")
		c.ask()
		synctest.Wait()
		check("asked", "third.example", 2, 1)

		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		pass()
		pass()
		check("gone", "third.example", 2, 2)
	})
}
