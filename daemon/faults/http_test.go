package faults

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// bombMiB is what the bomb unpacks to.
const bombMiB = 128

// reached are the servers of this machine that core must not reach, and how often each was.
type reached struct {
	*yard
	v4, v6, other string // host:port
	hits          atomic.Int32
	bomb          []byte
}

func newReached(y *yard) *reached {
	r := &reached{yard: y}
	// Much of nothing, packed.
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range bombMiB {
		_, err := w.Write(zeros)
		y.check(err)
	}
	y.check(w.Close())
	r.bomb = b.Bytes()
	serve := func(address string, handler http.HandlerFunc) string {
		l, err := net.Listen("tcp", address)
		y.check(err)
		server := &http.Server{Handler: handler}
		var ended sync.WaitGroup
		ended.Go(func() { _ = server.Serve(l) })
		y.Cleanup(func() { server.Close(); ended.Wait() })
		return l.Addr().String()
	}
	forbidden := func(w http.ResponseWriter, _ *http.Request) {
		r.hits.Add(1)
		fmt.Fprint(w, "secret")
	}
	r.v4, r.v6 = serve("127.0.0.1:0", forbidden), serve("[::1]:0", forbidden)
	r.other = serve("127.0.0.2:0", func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/redirect":
			http.Redirect(w, q, q.URL.Query().Get("to"), http.StatusFound)
		case "/bomb", "/redirect-bomb", "/bombs":
			w.Header().Set("Content-Encoding", "gzip")
			if q.URL.Path == "/bombs" { // packed twice, as the header says
				w.Header().Set("Content-Encoding", "gzip, gzip")
			}
			if q.URL.Path == "/redirect-bomb" {
				w.Header().Set("Location", "/fine")
				w.WriteHeader(http.StatusFound)
			}
			_, _ = w.Write(r.bomb)
		default:
			fmt.Fprint(w, "fine")
		}
	})
	return r
}

// driver asks as core.http_request does, once for each line, in one process: names are resolved as a hosts file and a
// name that rebinds would. Last it tells by how many MiB it has grown since the first.
const driver = `
import json, os, resource, socket, sys
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
sys.path[:0] = [os.path.join(sys.argv[1], d) for d in ("lib", "actions")]
real, asked = socket.getaddrinfo, {}
names = {"loop.test": ["127.0.0.1"], "meta.test": ["169.254.169.254"], "rebinds.test": ["127.0.0.2", "127.0.0.1"],
         "both.test": ["169.254.169.254"]}
def resolve(host, *args, **kwargs):
    if host in names:
        n = asked[host] = asked.get(host, -1) + 1
        host = names[host][min(n, len(names[host]) - 1)]
    return real(host, *args, **kwargs)
socket.getaddrinfo = resolve
import http_request
for line in sys.stdin:
    asked.clear()
    print(json.dumps(http_request.ask(json.loads(line))), flush=True)
    first = globals().get("first") or peak()
print(peak() - first)
`

// F102: whatever way an address is written, hidden behind a name or a redirect, what the configuration forbids is not
// reached, and the reason is shown; answers that would grow without end are cut.
func TestF102ForbiddenAddresses(t *testing.T) {
	t.Parallel()
	r := newReached(emptyYard(t))
	_, port, err := net.SplitHostPort(r.v4)
	r.check(err)
	_, port6, err := net.SplitHostPort(r.v6)
	r.check(err)
	const denied, link, fine = "which http_deny names", "is link-local, which is never reached unless http_allow names it", ""
	type ask struct{ url, want string }
	var asks []ask
	for _, host := range []string{
		"127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "127.000.000.001", "0", "0.0.0.0",
		"localhost", "loop.test", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
	} {
		asks = append(asks, ask{"http://" + host + ":" + port + "/", denied})
	}
	for _, host := range []string{"[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "localhost"} {
		asks = append(asks, ask{"http://" + host + ":" + port6 + "/", denied})
	}
	for _, host := range []string{"169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fe80::1]", "meta.test", "[64:ff9b::a9fe:a9fe]"} {
		asks = append(asks, ask{"http://" + host + "/latest/meta-data/", link})
	}
	direct := len(asks)
	for _, a := range asks[:direct] { // and by a redirect to it
		asks = append(asks, ask{"http://" + r.other + "/redirect?to=" + a.url, a.want})
	}
	_, otherPort, err := net.SplitHostPort(r.other)
	r.check(err)
	asks = append(
		asks,
		ask{"http://" + r.other + "/redirect?to=file:///etc/passwd", "No connection adapters were found"},
		ask{"http://" + r.other + "/fine", fine},
		ask{"http://rebinds.test:" + otherPort + "/fine", fine}, // its second answer is not asked for
		ask{"http://rebinds.test:" + otherPort + "/redirect?to=http://rebinds.test:" + port + "/", denied},
		ask{"http://" + r.other + "/bomb", fine},
		ask{"http://" + r.other + "/bombs", fine},
		ask{"http://" + r.other + "/redirect-bomb", fine},
	)
	core, err := filepath.Abs("../../packs/core")
	r.check(err)
	cmd := exec.Command("python3", "-c", driver, core)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1", `ATTUNE_PACK_CONFIG_HTTP_DENY=["127.0.0.0/8", "::1/128"]`,
		`ATTUNE_PACK_CONFIG_HTTP_ALLOW=["127.0.0.2/32"]`,
		"http_proxy=http://" + r.other, // which would be the address that is checked
	}
	var in bytes.Buffer
	for _, a := range asks {
		r.check(json.NewEncoder(&in).Encode(map[string]any{"url": a.url, "timeout": 20}))
	}
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the driver ended: %v", err)
	}
	answers := strings.Split(strings.TrimSpace(string(out)), "\n")
	if grown, err := strconv.Atoi(answers[len(answers)-1]); err != nil || grown > 12 {
		t.Errorf("it has grown by %d MiB, %v", grown, err)
	}
	if answers = answers[:len(answers)-1]; len(answers) != len(asks) {
		t.Fatalf("%d answers to %d requests:\n%.3000s", len(answers), len(asks), out)
	}
	for i, a := range asks {
		var have struct {
			Status    int    `json:"status_code"`
			Error     string `json:"error"`
			Blocked   bool   `json:"blocked"`
			Body      string `json:"body"`
			Truncated bool   `json:"body_truncated"`
		}
		r.check(json.Unmarshal([]byte(answers[i]), &have))
		if a.want == fine {
			if have.Status != http.StatusOK || len(have.Body) > 300<<10 || strings.HasSuffix(a.url, "/bomb") && !have.Truncated {
				t.Errorf("%s: %.300s", a.url, answers[i])
			}
			continue
		}
		if have.Status != 0 || !strings.Contains(have.Error, a.want) || have.Blocked != (a.want == denied || a.want == link) {
			t.Errorf("%s: %.300s", a.url, answers[i])
		}
	}
	if n := r.hits.Load(); n > 0 {
		t.Errorf("what is forbidden was reached %d times", n)
	}
}
