package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const hooks = `
-- hooks/pack.yaml --
ref: hooks
version: 1.0.0
-- hooks/actions/keep.yaml --
name: keep
entry_point: keep.sh
parameters: {text: {type: string}, wrapped: {type: string}}
-- hooks/actions/keep.sh --
cat >"$ATTUNE_RESULT_FILE"
[ "$ATTUNE_ACTION_WRAPPED" = "<$ATTUNE_ACTION_TEXT>" ] || echo differs
-- hooks/triggers/said.yaml --
name: said
type: webhook
-- hooks/triggers/signed.yaml --
name: signed
type: webhook
verify: {type: stripe, secret: "{{ secret.hook }}"}
-- hooks/triggers/empty.yaml --
name: empty
type: webhook
verify: {type: hmac, secret: "{{ secret.empty }}", header: X-Signature}
-- hooks/rules/keep.yaml --
name: keep
trigger: hooks.said
action: {ref: hooks.keep, parameters: {text: "{{ event.payload.body.text }}", wrapped: "<{{ event.payload.body.text }}>"}}
`

// hookNode is a node with the hooks pack and its secrets.
func hookNode(t *testing.T, more ...string) *node {
	t.Helper()
	y := newYard(t, hooks)
	folder := filepath.Join(y.dir, "secrets")
	y.check(os.Mkdir(folder, 0o700))
	for name, text := range map[string]string{"hook": "hush\n", "empty": "", "x": "the-secret-of-x"} {
		y.check(os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	return y.node(append(more, fmt.Sprintf("secrets.directory = %q", folder))...).start()
}

// hook sends a request to a webhook and gives the answer.
func (n *node) hook(path, body string, header ...string) (status int, answer string) {
	n.Helper()
	status, answer, err := n.tryHook(path, strings.NewReader(body), header...)
	n.check(err)
	return status, answer
}

func (n *node) tryHook(path string, body io.Reader, header ...string) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(n.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, n.address+"/webhooks/"+path, body)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// hookToken is the token of hooks.said.
func (n *node) hookToken() string {
	n.Helper()
	shown, err := n.client.WebhookToken(n.Context(), "hooks.said")
	n.check(err)
	return shown.Token
}

func hexMAC(secret, message string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(message))
	return hex.EncodeToString(m.Sum(nil))
}

// stripe signs a body as Stripe does.
func stripe(secret, body string, at time.Time) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	return "t=" + stamp + ",v1=" + hexMAC(secret, stamp+"."+body)
}

// What a webhook carries arrives as it is: nothing evaluates it, and no shell sees it.
func TestF101WhatAWebhookSaysIsData(t *testing.T) {
	t.Parallel()
	n := hookNode(t)
	token, marker := n.hookToken(), filepath.Join(n.dir, "pwned")
	texts := []string{
		"{{ secret.x }}", "{{ 1 + 1 }}", "@secret:x", "$(touch " + marker + ")", "`touch " + marker + "`", "; touch " + marker, "a\nb\r\n\tc",
		"${HOME}", `'; touch ` + marker + `; '`, `"; touch ` + marker + `; "`, "|| touch " + marker, "\\", "%s%n", "\x1b[31m", "'", `"`, "--help", "sealed:00000000:AAAA",
	}
	for i, text := range texts {
		body, err := json.Marshal(map[string]any{"text": text})
		n.check(err)
		if status, answer := n.hook("hooks/said", string(body), "X-Attune-Token", token, "Content-Type", "application/json"); status != http.StatusAccepted ||
			answer != fmt.Sprintf("{\"id\":%d,\"duplicate\":false}\n", i+1) {
			t.Fatalf("%q: %d %s", text, status, answer)
		}
	}
	n.until("all have ended", func() bool {
		return n.query("SELECT count(*) FROM execution WHERE finished_at IS NOT NULL")[0] == strconv.Itoa(len(texts))
	})
	for i, text := range texts {
		execution, err := n.client.Execution(t.Context(), int64(i+1))
		n.check(err)
		var got map[string]string
		if err := json.Unmarshal(execution.Result, &got); err != nil || got["text"] != text || got["wrapped"] != "<"+text+">" || execution.Stdout != "" {
			t.Errorf("%q arrived as %s, stdout %q, error %v", text, execution.Result, execution.Stdout, execution.Error)
		}
	}
	if exists(marker) {
		t.Error("a text of a webhook was run")
	}
	if dump := n.query("SELECT string_agg(payload::text, ' ') FROM event")[0]; strings.Contains(dump, token) || strings.Contains(dump, "the-secret-of-x") {
		t.Error("an event has a secret")
	}
}

// Bad, missing, replayed, old and empty-secret signatures, bodies without end and clients without haste:
// they are refused alike, there is no event, and others are served meanwhile.
func TestF104HostileWebhooks(t *testing.T) {
	t.Parallel()
	n := hookNode(t)
	const body = `{"text": "x"}`
	now := time.Now()
	token := n.hookToken()

	// The slow ones come first: the others have to be served beside them.
	var slow sync.WaitGroup
	for i := range 40 {
		slow.Go(func() { n.dribble(t, i) })
	}

	var refusals []string
	for _, c := range [][]string{
		{"hooks/nothing"},
		{"nothing/said", "X-Attune-Token", token},
		{"hooks/said"},
		{"hooks/said", "X-Attune-Token", token + "x"},
		{"hooks/said", "Authorization", "Bearer attw_" + strings.Repeat("A", 43)},
		{"hooks/signed"},
		{"hooks/signed", "X-Attune-Token", token},
		{"hooks/signed", "Stripe-Signature", stripe("wrong", body, now)},
		{"hooks/signed", "Stripe-Signature", stripe("", body, now)},
		{"hooks/signed", "Stripe-Signature", stripe("hush", body+" ", now)},
		{"hooks/signed", "Stripe-Signature", stripe("hush", body, now.Add(-time.Hour))},
		{"hooks/signed", "Stripe-Signature", stripe("hush", body, now.Add(time.Hour))},
		{"hooks/empty", "X-Signature", hexMAC("", body)},
	} {
		status, answer := n.hook(c[0], body, c[1:]...)
		if status != http.StatusUnauthorized {
			t.Errorf("%q: %d %s", c, status, answer)
		}
		refusals = append(refusals, answer)
	}
	for _, answer := range refusals {
		if answer != refusals[0] {
			t.Errorf("a refusal says %s, another %s", answer, refusals[0])
		}
	}
	for _, header := range []string{"Content-Length: 104857600", "Transfer-Encoding: chunked"} {
		if line := n.flood(t, header); !strings.HasPrefix(line, "HTTP/1.1 413 ") {
			t.Errorf("a large body with %s is answered %q", header, line)
		}
	}
	if events := n.query("SELECT count(*) FROM event")[0]; events != "0" {
		t.Fatalf("%s events of requests that were refused", events)
	}

	// The real ones are taken, and once.
	signature := stripe("hush", body, now)
	for _, want := range []string{`{"id":1,"duplicate":false}`, `{"id":1,"duplicate":true}`} {
		if status, answer := n.hook("hooks/signed", body, "Stripe-Signature", signature); status != http.StatusAccepted || strings.TrimSpace(answer) != want {
			t.Errorf("a signed request: %d %s, want %s", status, answer, want)
		}
	}
	if status, answer := n.hook("hooks/said", body, "Authorization", "Bearer "+token); status != http.StatusAccepted {
		t.Errorf("with the token: %d %s", status, answer)
	}
	if status := n.status(); status == nil || !status.Ready {
		t.Errorf("the API answers %+v meanwhile", status)
	}
	slow.Wait()
	counted := n.metrics()
	for _, word := range []string{
		`attune_webhook_requests_total{outcome="signature",trigger="hooks.signed"}`, `attune_webhook_requests_total{outcome="stale",trigger="hooks.signed"}`,
		`attune_webhook_requests_total{outcome="secret",trigger="hooks.empty"}`, `attune_webhook_requests_total{outcome="too_large",trigger=""}`,
		`attune_webhook_requests_total{outcome="slow",trigger=""}`, `attune_webhook_requests_total{outcome="duplicate",trigger="hooks.signed"}`,
	} {
		if counted[word] == 0 {
			t.Errorf("the metrics have no %s", word)
		}
	}
	if log := n.log.String(); strings.Contains(log, token) || strings.Contains(log, "hush") {
		t.Error("the log has a secret")
	}
}

// dribble begins a request and never ends it, every other one in its header: the server has to give up.
func (n *node) dribble(t *testing.T, i int) {
	conn := n.dial(t)
	defer conn.Close()
	// A proxy on this machine says that each comes from somewhere else.
	fmt.Fprintf(conn, "POST /webhooks/hooks/said HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.%d\r\n", i)
	if i%2 == 0 {
		fmt.Fprintf(conn, "Content-Length: 1000\r\n\r\n{\"text\": ")
	}
	// Whatever the answer is, the end of the connection is what counts.
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
		t.Errorf("slow client %d still has its connection", i)
	}
}

// flood sends two MiB of a body that is to have many more, and gives the first line of the answer.
func (n *node) flood(t *testing.T, header string) string {
	conn := n.dial(t)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /webhooks/hooks/said HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", header)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	go func() {
		for range 32 {
			if strings.HasPrefix(header, "Transfer") {
				fmt.Fprintf(conn, "%x\r\n%s\r\n", len(chunk), chunk)
			} else if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return line
}

func (n *node) dial(t *testing.T) net.Conn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.address, "http://"))
	if err != nil {
		t.Error(err)
		conn, _ = net.Pipe()
	}
	return conn
}

// A token is the same on every node, and renewed on every node.
func TestWebhookTokensOnSeveralNodes(t *testing.T) {
	t.Parallel()
	y := newYard(t, hooks)
	key := fmt.Sprintf("secrets.key_file = %q", filepath.Join(y.dir, "attune.key"))
	y.check(os.WriteFile(filepath.Join(y.dir, "attune.key"), []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))), 0o600))
	one, two := y.node(key).start(), y.node(key).start()
	status := func(n *node, token string) int {
		status, _ := n.hook("hooks/said", `{"text": "x"}`, "X-Attune-Token", token)
		return status
	}
	token := one.hookToken()
	if again := two.hookToken(); again != token {
		t.Errorf("the nodes show %s and %s", token, again)
	}
	two.until("it takes the token", func() bool { return status(two, token) == http.StatusAccepted })
	rotated, err := two.client.RotateWebhookToken(t.Context(), "hooks.said", "")
	one.check(err)
	if rotated.Token == token {
		t.Errorf("the token is still %s", token)
	}
	// On the node that renewed it at once, on the others soon.
	if had, has := status(two, token), status(two, rotated.Token); had != http.StatusUnauthorized || has != http.StatusAccepted {
		t.Errorf("the former token is answered by %d, the new one by %d", had, has)
	}
	one.until("it takes the new token", func() bool { return status(one, rotated.Token) == http.StatusAccepted })
	if had := status(one, token); had != http.StatusUnauthorized {
		t.Errorf("the other node answers the former token by %d", had)
	}
	graced, err := one.client.RotateWebhookToken(t.Context(), "hooks.said", "1h")
	one.check(err)
	if had, has := status(one, rotated.Token), status(one, graced.Token); had != http.StatusAccepted || has != http.StatusAccepted || graced.FormerUntil == nil {
		t.Errorf("within the grace the former token is answered by %d, the new one by %d", had, has)
	}
}
