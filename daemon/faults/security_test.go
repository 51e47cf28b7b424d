package faults

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/attune-io/attune/daemon/api"
)

// leaky is a pack that does with its secrets all that should not be done.
const leaky = `
-- leaky/pack.yaml --
ref: leaky
version: 1.0.0
conf_schema:
  api_key: {type: string, secret: true}
  region: {type: string}
-- leaky/actions/shout.yaml --
name: shout
entry_point: shout.sh
parameters:
  token: {type: string, secret: true}
  nested: {type: object, properties: {password: {type: string, secret: true}, user: {type: string}}}
  key: {type: string, secret: true}
  exit: {type: integer, default: 0}
-- leaky/actions/shout.sh --
input=$(cat)
echo "all of it: $input"; echo "all of it: $input" >&2
python3 - "$input" <<'PY'
import base64, json, sys, urllib.parse, os
p = json.loads(sys.argv[1])
values = [p["token"], p["nested"]["password"], p["key"]]
for v in values:
    for line in v.splitlines():
        print("plain", line, flush=True)
    for pad in ("", "x", "xx"):
        print("base64", base64.b64encode((pad + v + "!").encode()).decode())
    print("json", json.dumps(v), json.dumps(v, ensure_ascii=False))
    print("url", urllib.parse.quote(v), urllib.parse.quote_plus(v))
    for c in v:  # across the borders of chunks
        sys.stderr.write(c); sys.stderr.flush()
    print(file=sys.stderr)
with open(os.environ["ATTUNE_RESULT_FILE"], "w") as f:
    json.dump({"got": p, "list": values}, f)
PY
exit "$(echo "$input" | sed 's/.*"exit":\([0-9]*\).*/\1/')"
-- leaky/actions/strict.yaml --
name: strict
entry_point: strict.sh
parameters:
  token: {type: string, secret: true, pattern: '^[a-z]+$'}
-- leaky/actions/strict.sh --
true
-- leaky/actions/config.yaml --
name: config
entry_point: config.sh
-- leaky/actions/config.sh --
env | grep PACK_CONFIG | sort; cat "$ATTUNE_PACK_CONFIG_FILE"
-- leaky/triggers/called.yaml --
name: called
payload_schema:
  credential: {type: string, secret: true}
  user: {type: string}
-- leaky/rules/pass.yaml --
name: pass
trigger: leaky.called
action:
  ref: leaky.shout
  parameters:
    token: "{{ event.payload.credential }}"
    nested: {user: "{{ event.payload.user }}", password: "{{ secret.database }}"}
    key: "{{ secret.certificate }}"
-- leaky/sensors/talk.yaml --
name: talk
entry_point: talk.sh
trigger_types: [leaky.called]
parameters:
  token: {type: string, secret: true}
  word: {type: string, secret: true}
config:
  token: "{{ secret.database }}"
  word: "{{ secret.token }}"
-- leaky/sensors/talk.sh --
read -r config
echo "I was given $config" >&2
echo "no event: $config"
while :; do sleep 1; done
`

// forms are what common tools make of a secret.
func forms(value string) [][]byte {
	list := [][]byte{[]byte(value), []byte(url.QueryEscape(value)), []byte(url.PathEscape(value))}
	for line := range strings.Lines(value) {
		if line = strings.TrimSpace(line); len(line) >= 6 {
			list = append(list, []byte(line))
		}
	}
	if quoted, err := json.Marshal(value); err == nil {
		list = append(list, quoted[1:len(quoted)-1])
	}
	for offset := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, offset), value+"!!!"...))
		list = append(list, []byte(encoded[4:4+4*(len(value)/4)]))
	}
	return list
}

// find names the places in which one of the secrets stands, in any form.
func find(t *testing.T, secrets []string, places map[string][]byte) {
	t.Helper()
	for name, content := range places {
		for i, secret := range secrets {
			for _, form := range forms(secret) {
				if at := bytes.Index(content, form); at >= 0 {
					t.Errorf("secret %d is in %s as %q: …%s…", i, name, form, content[max(0, at-100):min(len(content), at+len(form)+20)])
					break
				}
			}
		}
	}
}

// F99: whatever way secrets go, none is found afterwards where secrets do not belong.
func TestF99PlantedSecrets(t *testing.T) {
	t.Parallel()
	y := newYard(t, leaky)
	secrets := []string{
		"plain-Secret-0451",
		`json "quoted" & <b>ö-Secret-0452`,
		"-----BEGIN KEY-----\nMIIEowIBAAKCAQEA0453\nzzzzSecretLine0453\n-----END KEY-----",
		"event-Secret-0454/+?", "config-Secret-0455", "misfit-SECRET-0456",
	}
	folder := filepath.Join(y.dir, "secrets")
	y.check(os.Mkdir(folder, 0o700))
	for name, value := range map[string]string{"token": secrets[0], "database": secrets[1], "certificate": secrets[2]} {
		y.check(os.WriteFile(filepath.Join(folder, name), []byte(value+"\n"), 0o600))
	}
	n := y.node(fmt.Sprintf("secrets.directory = %q", folder), `log.level = "debug"`, `exec.workers = 4`,
		`packs.config.leaky.api_key = "`+secrets[4]+`"`, `packs.config.leaky.region = "north"`).start()
	n.sensorPID("leaky.talk")

	// By name, in clear, in clear and failing, refused, and by a rule from an event and by name.
	ctx := t.Context()
	var asked []int64
	for _, e := range []api.NewExecution{
		{
			Action: "leaky.shout", Parameters: map[string]any{"nested": map[string]any{"user": "joe"}},
			Secrets: map[string]string{"/token": "token", "/nested/password": "database", "/key": "certificate"},
		},
		{Action: "leaky.shout", Parameters: map[string]any{"token": secrets[0], "nested": map[string]any{"password": secrets[1]}, "key": secrets[2]}},
		{Action: "leaky.shout", Parameters: map[string]any{"token": secrets[0], "nested": map[string]any{"password": secrets[1]}, "key": secrets[2], "exit": 3}},
		{Action: "leaky.config"},
	} {
		queued, err := n.client.Execute(ctx, e)
		y.check(err)
		asked = append(asked, queued.ID)
	}
	_, refusal := n.client.Execute(ctx, api.NewExecution{Action: "leaky.strict", Parameters: map[string]any{"token": secrets[5]}})
	if refusal == nil {
		t.Error("a secret that does not fit was taken")
	}
	_, _, code := n.run("run", "leaky.strict", "token="+secrets[5])
	if code != 125 {
		t.Errorf("attune run with a secret that does not fit: exit %d", code)
	}
	n.must("trigger", "fire", "leaky.called", "credential="+secrets[3], "user=joe")
	n.until("all executions have ended", func() bool {
		return slices.Equal(y.query("SELECT count(*) FROM execution WHERE finished_at IS NOT NULL"), []string{"5"})
	})
	// They did get them: shout's result has as many stars as secrets.
	for i, id := range asked[:3] {
		e, err := n.client.Execution(ctx, id)
		y.check(err)
		if want := []string{"succeeded", "succeeded", "failed"}[i]; string(e.Status) != want || bytes.Count(e.Result, []byte("***")) < 6 || strings.Count(e.Stdout, "***") < 20 {
			t.Errorf("execution %d is %s, want %s; result %s\nstdout %s\nstderr %s", id, e.Status, want, e.Result, e.Stdout, e.Stderr)
		}
	}
	e, err := n.client.Execution(ctx, asked[3])
	y.check(err)
	config := regexp.MustCompile(`CONFIG_FILE=.*`).ReplaceAllString(e.Stdout, "CONFIG_FILE=…")
	if want := "ATTUNE_PACK_CONFIG_FILE=…\nATTUNE_PACK_CONFIG_REGION=north\n{\"api_key\":\"***\",\"region\":\"north\"}\n"; config != want {
		t.Errorf("the pack's configuration came as %s, want %s", config, want)
	}

	places := map[string][]byte{"the log": []byte(n.log.String()), "the refusal": fmt.Append(nil, refusal)}
	dump, err := exec.Command("pg_dump", "--inserts", "--exclude-table-data=attune.event*", y.url).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, dump)
	}
	// Events are kept as their senders sent them: rules read them, now and when they are replayed.
	places["the database"] = dump
	for _, args := range [][]string{
		{"execution", "list", "-o", "json"},
		{"execution", "show", "1"},
		{"execution", "show", "2", "-o", "yaml"},
		{"execution", "logs", "3"},
		{"action", "show", "leaky.shout"},
		{"pack", "show", "leaky", "-o", "json"},
		{"pack", "plan"},
		{"sensor", "logs", "leaky.talk"},
		{"sensor", "show", "leaky.talk", "-o", "json"},
		{"rule", "show", "leaky.pass", "-o", "json"},
		{"event", "list", "-o", "json"},
		{"event", "show", "1", "-o", "json"},
		{"trigger", "show", "leaky.called", "-o", "json"},
		{"config", "show"},
		{"status", "-o", "json"},
	} {
		out, errs, _ := n.run(args...)
		places["attune "+strings.Join(args, " ")] = []byte(out + errs)
	}
	n.status()
	if answer, err := exec.Command("curl", "-sS", n.address+"/metrics").Output(); err == nil {
		places["the metrics"] = answer
	}
	for _, pid := range append(n.children(), n.pid()) {
		for _, file := range []string{"cmdline", "environ"} {
			if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file)); err == nil {
				places["/proc/"+strconv.Itoa(pid)+"/"+file] = content
			}
		}
	}
	n.stop() // what running children were handed in files of their own goes with them
	left := 0
	y.check(filepath.WalkDir(n.state, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // what vanishes meanwhile holds nothing
		}
		content, err := os.ReadFile(path)
		if err == nil {
			places[path] = content
			left++
		}
		return nil
	}))
	if left == 0 {
		t.Error("the state directory was not looked through")
	}
	find(t, secrets, places)
	if info, err := os.Stat(filepath.Join(n.state, "attune.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", info, err)
	}
	// What is encrypted is there, by key.
	if n := len(y.query("SELECT id FROM execution WHERE secrets::text LIKE '%sealed:%'")); n != 3 {
		t.Errorf("%d executions have encrypted values, want 3", n)
	}
}

// rulesGive is a pack whose rule gives its trigger and its actions secrets as they are, in all forms of YAML.
const rulesGive = `
-- gives/pack.yaml --
ref: gives
version: 1.0.0
-- takes/pack.yaml --
ref: takes
version: 1.0.0
-- takes/actions/take.yaml --
name: take
entry_point: take.sh
parameters:
  token: {type: string, secret: true}
  login: {type: object, secret: true}
  pin: {type: integer, secret: true}
  open: {type: string}
-- takes/actions/take.sh --
cat
-- takes/triggers/told.yaml --
name: told
parameters:
  token: {type: string, secret: true}
payload_schema: {n: {type: integer}, list: {type: array}}
-- gives/rules/give.yaml --
name: give
trigger: {ref: takes.told, parameters: {token: %[1]q}}
when: event.payload.n > 0
for_each: event.payload.list
actions:
  - ref: takes.take
    parameters:
      token: %[2]q
      open: seen {{ item }}
  - takes.take
  - ref: takes.take
    parameters:
      token: >-
        %[3]s
      login: {user: joe, password: '%[4]s'}
-- gives/rules/misfit.yaml --
name: misfit
trigger: takes.told
action: {ref: takes.take, parameters: {pin: %[5]s}}
`

// F99: what a rule gives its trigger and its actions stands in its file, and is shown and stored nowhere in clear.
func TestF99SecretsThatRulesGive(t *testing.T) {
	t.Parallel()
	first := []string{"trigger-Secret-0461", "action-Secret-0462", "folded-Secret-0463", "login-Secret-0464", "misfit-Secret-0465"}
	then := []string{"trigger-Secret-0471", "action-Secret-0472", "folded-Secret-0473", "login-Secret-0474", "misfit-Secret-0475"}
	written := func(secrets []string) string {
		values := make([]any, len(secrets))
		for i, secret := range secrets {
			values[i] = secret
		}
		return fmt.Sprintf(rulesGive, values...)
	}
	y := newYard(t, written(first))
	n := y.node(`log.level = "debug"`, `exec.workers = 4`).start()
	n.must("trigger", "fire", "takes.told", "n=1", `list=["one", "two"]`)
	n.must("trigger", "fire", "takes.told", "n=0")
	n.until("all executions have ended", func() bool {
		return slices.Equal(y.query("SELECT count(*) FROM execution WHERE status = 'succeeded'"), []string{"6"})
	})
	places := map[string][]byte{}
	look := func(when string) {
		for _, args := range [][]string{
			{"rule", "list", "-o", "json"},
			{"rule", "list", "-o", "wide"},
			{"rule", "show", "gives.give"},
			{"rule", "show", "gives.give", "-o", "json"},
			{"rule", "show", "gives.give", "-o", "yaml"},
			{"rule", "test", "gives.give", "--payload", `{"n": 1, "list": [1]}`},
			{"rule", "test", "gives.give", "--payload", `{"n": 1, "list": [1]}`, "-o", "json"},
			{"rule", "test", "gives.give", "--event", "1"},
			{"rule", "test", "gives.give", "--since", "1h", "-o", "json"},
			{"trigger", "show", "takes.told", "-o", "json"},
			{"event", "show", "1", "-o", "json"},
			{"why", "event", "1", "-o", "json"},
			{"why", "event", "2"},
			{"why", "execution", "1"},
			{"execution", "show", "1", "-o", "json"},
			{"execution", "list", "-o", "json"},
			{"pack", "show", "gives", "-o", "json"},
			{"pack", "list", "-o", "json"},
			{"pack", "plan"},
			{"pack", "plan", "-o", "json"},
			{"pack", "diff", "gives"},
			{"pack", "diff", "gives", "-o", "json"},
			{"pack", "history", "gives", "-o", "json"},
			{"pack", "lint", y.path("gives"), y.path("takes")},
			{"pack", "lint", y.path("gives"), y.path("takes"), "-o", "json"},
			{"audit", "list", "-o", "json"},
			{"status", "-o", "json"},
			{"doctor"},
		} {
			out, errs, _ := n.run(args...)
			places["attune "+strings.Join(args, " ")+", "+when] = []byte(out + errs)
		}
	}
	look("in force")
	lint := string(places[fmt.Sprintf("attune pack lint %s %s, in force", y.path("gives"), y.path("takes"))])
	for _, told := range []string{
		"gives/rules/give.yaml:8:14: cannot keep actions.0.parameters.token secret: it stands in clear in this file",
		"gives/rules/give.yaml:13:14: cannot keep actions.2.parameters.token secret", "gives/rules/give.yaml:15:14: cannot keep actions.2.parameters.login secret",
		`write "{{ secret.name }}" there`,
	} {
		if !strings.Contains(lint, told) {
			t.Errorf("%q is not told by pack lint:\n%s", told, lint)
		}
	}
	if shown := string(places["attune rule show gives.give -o json, in force"]); strings.Count(shown, `"***"`) < 4 || !strings.Contains(shown, "seen {{ item }}") {
		t.Errorf("the rule is shown as %s", shown)
	}
	y.unpack(written(then))
	look("edited")
	for _, args := range [][]string{{"pack", "reload", "gives"}, {"pack", "diff", "gives", "1", "2"}} { // one rule is refused
		out, errs, _ := n.run(args...)
		places["attune "+strings.Join(args, " ")] = []byte(out + errs)
	}
	if revision := n.revision("gives"); revision != 2 {
		t.Errorf("revision %d, want 2", revision)
	}
	look("reloaded")
	places["the log"] = []byte(n.log.String())
	dump, err := exec.Command("pg_dump", "--inserts", y.url).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, dump)
	}
	places["the database"] = dump
	unpack, err := zstd.NewReader(nil)
	y.check(err)
	defer unpack.Close()
	for i, packed := range y.query("SELECT encode(content, 'base64') FROM file") {
		content, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(packed, "\n", ""))
		y.check(err)
		if plain, err := unpack.DecodeAll(content, nil); err == nil {
			content = plain
		}
		places["file "+strconv.Itoa(i)+" of the database"] = content
	}
	find(t, slices.Concat(first, then), places)
	// It is there, for who has the key.
	for _, sql := range []string{
		"SELECT ref FROM rule WHERE trigger_secrets IS NOT NULL AND action_secrets IS NOT NULL",
		"SELECT digest FROM file WHERE sealed_by IS NOT NULL LIMIT 1",
	} {
		if len(y.query(sql)) != 1 {
			t.Errorf("nothing is encrypted: %s", sql)
		}
	}
}

// F100: a child sees what it was given, and nothing of the daemon.
func TestF100ChildrenSeeNothingElse(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- spy/pack.yaml --
ref: spy
version: 1.0.0
-- spy/actions/look.yaml --
name: look
entry_point: look.sh
parameters: {word: {type: string}}
env: {OWN: mine}
-- spy/actions/look.sh --
env -0 | sort -z | tr '\0' '\n' | sed 's/=.*//'
# No pipe yet: the shell itself holds one open for a moment when it makes one.
ls /proc/self/fd >"$TMPDIR/ls"; ls /proc/$$/fd >"$TMPDIR/shell"
echo $(head -n 3 "$TMPDIR/ls") $(wc -l <"$TMPDIR/shell")
-- spy/actions/pry.yaml --
name: pry
entry_point: pry.sh
parameters: {pid: {type: integer}}
-- spy/actions/pry.sh --
for f in environ mem maps fd/0; do
  if head -c 1 "/proc/$ATTUNE_ACTION_PID/$f" >/dev/null 2>&1; then echo "$f can be read"; fi
done
`)
	n := y.node()
	// A database of its own: the one of the tests lets other users not in.
	n.env = slices.DeleteFunc(n.env, func(v string) bool { return strings.HasPrefix(v, "ATTUNE_DATABASE_URL=") })
	n.env = append(n.env, "PLANTED_IN_THE_DAEMON=planted-value", "PGPASSWORD=planted-value", "TZ=UTC")
	if os.Geteuid() == 0 {
		n.uid = 65534 // root reads everything
		y.shell("chmod -R a+rX .")
	}
	n.start()
	out := n.must("run", "spy.look", "word=x")
	want := "ATTUNE_ACTION ATTUNE_ACTION_WORD ATTUNE_ATTEMPT ATTUNE_BINARY ATTUNE_CHILD_ID ATTUNE_DATA_DIR ATTUNE_EXEC_ID ATTUNE_EXECUTION_ID " +
		"ATTUNE_LOG_LEVEL ATTUNE_PACK_DIR ATTUNE_PACK_REF ATTUNE_PARAMETER_DELIVERY ATTUNE_PARAMETER_FORMAT ATTUNE_RESULT_FILE ATTUNE_RUN_ID " +
		"HOME LC_CTYPE OWN PATH PWD PYTHONDONTWRITEBYTECODE SHELL SHLVL TMPDIR TZ _"
	names := strings.Split(strings.TrimSpace(out), "\n")
	last := names[len(names)-1]
	names = names[:len(names)-1]
	slices.Sort(names)
	wanted := strings.Fields(want)
	slices.Sort(wanted)
	if !slices.Equal(names, wanted) {
		t.Errorf("the environment has\n%v\nwant\n%v", names, wanted)
	}
	if last != "0 1 2 4" { // bash holds its script open beside 0, 1 and 2
		t.Errorf("descriptors: %q", last)
	}
	pried := []string{strconv.Itoa(n.pid())}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", n.pid()))
	y.check(err)
	for _, thread := range threads {
		children, err := os.ReadFile(thread)
		y.check(err)
		for pid := range strings.FieldsSeq(string(children)) {
			if command, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && bytes.Contains(command, []byte("\x00keeper")) {
				pried = append(pried, pid)
			}
		}
	}
	if len(pried) != 2 {
		t.Errorf("found %q, expected the daemon and its keeper", pried)
	}
	for _, pid := range pried {
		if out := n.must("run", "spy.pry", "pid="+pid); out != "" {
			t.Errorf("of the daemon, or its keeper, a child of the same user can read: %s", out)
		}
	}
}

// F101: what an event carries is data, whatever it looks like.
func TestF101EventDataIsData(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- data/pack.yaml --
ref: data
version: 1.0.0
-- data/actions/keep.yaml --
name: keep
entry_point: keep.sh
parameters: {text: {type: string}, wrapped: {type: string}}
-- data/actions/keep.sh --
cat >"$ATTUNE_RESULT_FILE"
printf %s "$ATTUNE_ACTION_TEXT"
[ "$ATTUNE_ACTION_WRAPPED" = "<$ATTUNE_ACTION_TEXT>" ] || echo differs >&2
-- data/triggers/said.yaml --
name: said
-- data/rules/keep.yaml --
name: keep
trigger: data.said
action: {ref: data.keep, parameters: {text: "{{ event.payload.text }}", wrapped: "<{{ event.payload.text }}>"}}
`)
	folder := filepath.Join(y.dir, "secrets")
	y.check(os.Mkdir(folder, 0o700))
	y.check(os.WriteFile(filepath.Join(folder, "x"), []byte("the-secret-of-x"), 0o600))
	n := y.node(fmt.Sprintf("secrets.directory = %q", folder)).start()
	marker := filepath.Join(y.dir, "pwned")
	texts := []string{
		"{{ secret.x }}", "{{ 1 + 1 }}", "@secret:x", "$(touch " + marker + ")", "`touch " + marker + "`", "; touch " + marker, "a\nb\r\n\tc",
		"${HOME}", "$HOME", `'; touch ` + marker + `; '`, `"; touch ` + marker + `; "`, "|| touch " + marker, "{% raw %}", "\\", "%s%n", "\x1b[31m", "\u202e",
		"'", `"`, "--help", "sealed:00000000:AAAA", " a ", "a\n",
	}
	for _, text := range texts {
		payload, err := json.Marshal(map[string]any{"text": text})
		y.check(err)
		file := filepath.Join(y.dir, "payload.json")
		y.check(os.WriteFile(file, payload, 0o600))
		n.must("trigger", "fire", "data.said", "@"+file)
	}
	n.until("all have ended", func() bool {
		return slices.Equal(y.query("SELECT count(*) FROM execution WHERE finished_at IS NOT NULL"), []string{strconv.Itoa(len(texts))})
	})
	for i, text := range texts {
		executions, err := n.client.Execution(t.Context(), int64(i+1))
		y.check(err)
		var got map[string]string
		if err := json.Unmarshal(executions.Result, &got); err != nil {
			t.Errorf("%q: result %s, stderr %s, error %v", text, executions.Result, executions.Stderr, executions.Error)
			continue
		}
		if got["text"] != text || got["wrapped"] != "<"+text+">" || executions.Stdout != text || executions.Stderr != "" {
			t.Errorf("%q arrived as %q, %q and %q; stderr %q", text, got["text"], got["wrapped"], executions.Stdout, executions.Stderr)
		}
	}
	if exists(marker) {
		t.Error("a text of an event was run")
	}
}

// F107: what everybody may write, or what is not signed where that is enforced, is refused; what is in force stays.
func TestF107PacksOthersCouldHaveWritten(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- own/pack.yaml --
ref: own
version: 1.0.0
-- own/actions/say.yaml --
name: say
entry_point: say.sh
-- own/actions/say.sh --
echo one
`)
	key := filepath.Join(y.dir, "key")
	public := strings.TrimSpace(y.node().must("pack", "sign", "--new-key", key, y.path("own")))
	n := y.node(`packs.signatures = "enforce"`, fmt.Sprintf("packs.keys = [%q]", public+" ada")).start()
	said := func() string { return n.must("run", "own.say") }
	shown := func() string {
		p, err := n.client.Pack(t.Context(), "own")
		y.check(err)
		return fmt.Sprint(p.Signature, "\n", p.Errors)
	}
	refused := func(want string) {
		t.Helper()
		n.until(want, func() bool { return strings.Contains(shown(), want) })
		if said() != "one\n" {
			t.Errorf("%s: the last good version did not stay", want)
		}
	}
	if out := n.must("pack", "show", "own"); !strings.Contains(out, "good, by ada") {
		t.Errorf("the signature is not told:\n%s", out)
	}
	y.check(os.Chmod(y.path("own/actions/say.sh"), 0o666))
	refused("everybody may write this file (mode 0666, expected 0664), and so choose what runs here; chmod o-w " + y.path("own/actions/say.sh") + "; what is in force stays")
	y.check(os.Chmod(y.path("own/actions/say.sh"), 0o644))
	n.until("it is mended", func() bool { return !strings.Contains(shown(), "everybody may write") })
	y.replace("own/actions/say.sh", "echo two\n")
	refused("cannot trust the pack: it was changed since it was signed: actions/say.sh differs; what is in force stays")
	if out, _, code := n.run("pack", "verify", y.path("own")); code != 1 || out != "own: it was changed since it was signed: actions/say.sh differs\n" {
		t.Errorf("pack verify: exit %d, %s", code, out)
	}
	n.must("pack", "sign", "--key", key, y.path("own"))
	n.until("what is signed anew", func() bool { return said() == "two\n" })
}

// A child that runs as another user has all that it needs, and cannot write what it runs from.
func TestRunAsAnotherUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := newYard(t, `
-- other/pack.yaml --
ref: other
version: 1.0.0
-- other/lib/help.sh --
echo helped
-- other/actions/work.yaml --
name: work
entry_point: work.sh
run_as: nobody
parameter_delivery: file
parameters: {word: {type: string}}
-- other/actions/work.sh --
id -un
. "$ATTUNE_PACK_DIR/lib/help.sh"
cat "$ATTUNE_PARAMETER_FILE"
echo kept >"$ATTUNE_DATA_DIR/kept" && cat "$HOME/kept"
echo temp >"$TMPDIR/temp" && cat "$TMPDIR/temp"
for f in "$0" "$ATTUNE_PACK_DIR/new" "$ATTUNE_PACK_DIR/lib/help.sh"; do
  if (echo x >>"$f") 2>/dev/null; then echo "wrote $f"; fi
done
if chmod u+w "$0" 2>/dev/null; then echo "changed $0"; fi
if ls "$ATTUNE_DATA_DIR/.." >/dev/null 2>&1; then echo "sees other packs' data"; fi
echo '{"done": true}' >"$ATTUNE_RESULT_FILE"
-- other/actions/nobody.yaml --
name: nobody
entry_point: work.sh
run_as: no-such-user
`)
	n := y.node()
	y.check(os.Chmod(n.home, 0o755)) // others pass through, as they do in /var/lib
	n.start()
	if out := n.must("run", "other.work", "word=x"); out != "nobody\nhelped\n{\"word\":\"x\"}\nkept\ntemp\n" {
		t.Errorf("it printed %s", out)
	}
	e, err := n.client.Execution(t.Context(), 1)
	if err != nil || string(e.Result) != `{"done":true}` && string(e.Result) != `{"done": true}` {
		t.Errorf("its result is %s, %v", e.Result, err)
	}
	if left, _ := filepath.Glob(filepath.Join(n.state, "tmp", "exec-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, errs, code := n.run("run", "other.nobody"); code != 125 || !strings.Contains(errs, `cannot find user "no-such-user"`) {
		t.Errorf("a user that is not there: exit %d, %s", code, errs)
	}
}

// A child that may write anything, as root may, writes into nobody's next start.
func TestRevisionSurvivesItsChildren(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- vandal/pack.yaml --
ref: vandal
version: 1.0.0
-- vandal/actions/wreck.yaml --
name: wreck
entry_point: wreck.sh
-- vandal/actions/wreck.sh --
echo intact
chmod -R u+w "$ATTUNE_PACK_DIR"
echo 'echo wrecked' >"$0"
rm -f "$ATTUNE_PACK_DIR/pack.yaml"
echo x >"$ATTUNE_PACK_DIR/actions/more.sh"
`)
	n := y.node().start()
	for range 3 {
		if out := n.must("run", "vandal.wreck"); out != "intact\n" {
			t.Errorf("it printed %q", out)
		}
	}
	if told := n.log.count("revision's files were changed and are made anew; a child that runs as root, or as their owner, did that"); told != 2 {
		t.Errorf("it was told %d times, want 2:\n%s", told, n.log)
	}
}

// Keys are rotated without losing what the old one has encrypted.
func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- safe/pack.yaml --
ref: safe
version: 1.0.0
-- safe/actions/length.yaml --
name: length
entry_point: length.sh
parameters: {token: {type: string, secret: true}}
-- safe/actions/length.sh --
wc -c
`)
	keys := filepath.Join(y.dir, "keys")
	first, second := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 32)), base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("b"), 32))
	put := func(lines ...string) {
		y.check(os.WriteFile(keys+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
		y.check(os.Rename(keys+".new", keys))
	}
	sealed := func() string {
		return strings.Join(y.query(`SELECT DISTINCT split_part(secrets->>'/token', ':', 2) FROM execution ORDER BY 1`), " ")
	}
	put(first)
	n := y.node(fmt.Sprintf("secrets.key_file = %q", keys)).start()
	if out := n.must("run", "safe.length", "token=0123456789"); out != "23\n" {
		t.Errorf("it printed %s", out)
	}
	old := sealed()
	n.stop()
	put(second, first)
	n.start()
	const done = "nothing is encrypted with older keys any more, they may be removed from the key file"
	n.until("everything is encrypted anew", func() bool { return n.log.count(done) == 1 })
	if now := sealed(); now == old || now == "" {
		t.Errorf("it is encrypted with key %q, before with %q", now, old)
	}
	n.stop()
	put(second)
	n.start()
	if _, errs, code := n.run("execution", "rerun", "1"); code != 0 {
		t.Fatalf("rerun: exit %d, %s", code, errs)
	}
	n.until("it has run again", func() bool {
		e, err := n.client.Execution(t.Context(), 2)
		return err == nil && e.Status == "succeeded" && e.Stdout == "23\n"
	})
	// Without any key it does not start: what is queued could not run.
	n.stop()
	y.check(os.Remove(keys))
	n.launch()
	if code := n.ended(); code == 0 || !strings.Contains(n.log.String(), "cannot read the key file") {
		t.Errorf("without its key file it ended with %d:\n%s", code, n.log)
	}
}
