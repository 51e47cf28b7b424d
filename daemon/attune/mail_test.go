package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// mailServer starts two SMTP servers for core.mail: one that offers STARTTLS (SMTP) and one that speaks TLS
// from the start (SMTPS). Their ports go into these variables. The authority that their certificate is
// checked by is ca.pem, and what they take is appended to mail.txt. They want ada's password for
// recipients at example.org, and take nobody at example.net.
func mailServer(ts *testscript.TestScript, _ bool, _ []string) {
	certificate := selfSigned(ts, ts.MkAbs("ca.pem"))
	box := &mailbox{path: ts.MkAbs("mail.txt"), tls: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	secure, err := tls.Listen("tcp", "127.0.0.1:0", box.tls)
	ts.Check(err)
	for name, listener := range map[string]net.Listener{"SMTP": plain, "SMTPS": secure} {
		ts.Defer(func() { listener.Close() })
		ts.Setenv(name, fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go box.serve(conn, name == "SMTPS")
			}
		}()
	}
}

func selfSigned(ts *testscript.TestScript, ca string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	ts.Check(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// mailbox is where mails go.
type mailbox struct {
	path string
	tls  *tls.Config
	mu   sync.Mutex
}

func (m *mailbox) keep(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := os.OpenFile(m.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return // a story that has ended
	}
	defer f.Close()
	fmt.Fprint(f, text)
}

// serve speaks as much of SMTP as clients say (RFC 5321, 3207, 4954).
func (m *mailbox) serve(conn net.Conn, encrypted bool) {
	defer func() { conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	lines := bufio.NewReader(conn)
	say := func(line string) { fmt.Fprint(conn, line+"\r\n") }
	say("220 localhost ESMTP")
	var envelope []string
	known := false
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb := strings.ToUpper(strings.SplitN(line, " ", 2)[0])
		switch verb {
		case "EHLO", "HELO":
			say("250-localhost")
			if !encrypted {
				say("250-STARTTLS")
			}
			say("250-AUTH PLAIN")
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			secure := tls.Server(conn, m.tls)
			if secure.Handshake() != nil {
				return
			}
			conn, encrypted, lines = secure, true, bufio.NewReader(secure)
		case "AUTH":
			secret, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(line, "AUTH PLAIN "))
			if known = encrypted && string(secret) == "\x00ada\x00hunter2hunter2"; known {
				say("235 welcome")
			} else {
				say("535 no")
			}
		case "MAIL", "RCPT":
			switch {
			case verb == "RCPT" && strings.Contains(line, "example.net"):
				say("550 nobody there")
				continue
			case verb == "RCPT" && strings.Contains(line, "example.org") && !known:
				say("530 who are you?")
				continue
			}
			envelope = append(envelope, line)
			say("250 ok")
		case "DATA":
			say("354 go on")
			text := fmt.Sprintf("encrypted %v\n%s\n", encrypted, strings.Join(envelope, "\n"))
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if line = strings.TrimRight(line, "\r\n"); line == "." {
					break
				}
				text += line + "\n"
			}
			m.keep(text + "\n")
			envelope = nil
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		case "RSET", "NOOP":
			envelope = nil
			say("250 ok")
		default:
			say("500 what?")
		}
	}
}
