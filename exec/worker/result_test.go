package worker

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
)

func TestReadResult(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", maxResultDepth) + strings.Repeat("]", maxResultDepth)
	large := `{"a":"` + strings.Repeat("x", maxResult) + `"}`
	tests := []struct {
		name, format, stdout, file string
		want, err                  string
	}{
		{name: "text never parses", format: "text", stdout: `{"a":1}`},
		{name: "an object", stdout: " {\"a\": 1.50,\n \"b\":\"<\"}\n", want: `{"a":1.50,"b":"<"}`},
		{name: "a list", stdout: `[1, 2]`, want: `[1,2]`},
		{name: "a number is no result", stdout: `17`},
		{name: "text is no result", stdout: `hello`},
		{name: "nothing", stdout: ``},
		{name: "an object and more", stdout: "{} {}"},
		{name: "an object after text", stdout: "hello\n{}"},
		{name: "too deep is no result", stdout: "[" + deep + "]"},
		{name: "deep", stdout: deep, want: deep},
		{name: "too large is no result", stdout: large},
		{name: "numbers stay", stdout: `[12345678901234567890, 1e400, 0.1000]`, want: `[12345678901234567890,1e400,0.1000]`},
		{name: "not UTF-8", stdout: "{\"a\":\"\xff\"}", want: "{\"a\":\"\uFFFD\"}"},
		{name: "NUL", format: "json", stdout: "{\"a\":\"\x00\"}", want: "{\"a\":\"\uFFFD\"}"},

		{name: "json", format: "json", stdout: `17`, want: `17`},
		{name: "json null", format: "json", stdout: `null`, want: `null`},
		{name: "json that is none", format: "json", stdout: "{\"a\":\n oops}", err: "cannot read stdout as json: it is not JSON: line 2, column 2: invalid character 'o'"},
		{name: "json that is cut off", format: "json", stdout: `{"a":`, err: "unexpected end of JSON input"},
		{name: "json that is empty", format: "json", stdout: "\n", err: "it is empty, expected JSON"},
		{name: "json too deep", format: "json", stdout: "[" + deep + "]", err: "it is nested more than 64 levels deep"},
		{name: "json far too deep", format: "json", stdout: strings.Repeat("[", 20_000), err: "exceeded max depth"},
		{name: "json too large", format: "json", stdout: large, err: "expected at most 2097152"},
		{name: "yaml", format: "yaml", stdout: "a: 1\nb: [yes, 2020-01-01]\n", want: `{"a":1,"b":["yes","2020-01-01"]}`},
		{name: "yaml that is none", format: "yaml", stdout: "a: [", err: "cannot read stdout as yaml: line 1"},
		{name: "jsonl", format: "jsonl", stdout: "{\"a\":1}\n\n2\r\n\"x\"", want: `[{"a":1},2,"x"]`},
		{name: "jsonl that is empty", format: "jsonl", stdout: "", want: `[]`},
		{name: "jsonl that is none", format: "jsonl", stdout: "1\n2\nno\n", err: "cannot read stdout as jsonl: line 3: it is not JSON"},

		{name: "file wins", stdout: `{"a":1}`, file: `{"b":2}`, want: `{"b":2}`},
		{name: "file of text", format: "text", stdout: `{"a":1}`, file: `"b"`, want: `"b"`},
		{name: "file of yaml", format: "yaml", file: "b: 2", want: `{"b":2}`},
		{name: "file of nothing", stdout: `{"a":1}`, file: "\n", want: `{"a":1}`},
		{name: "file that is none", file: "b", err: "cannot use the result file: it is not JSON: line 1, column 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := readResult(test.format, printed{stdout: []byte(test.stdout), whole: true, file: []byte(test.file)})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %.100s and error %v, want %s", got, err, test.err)
				}
				return
			}
			if err != nil || string(got) != test.want {
				t.Errorf("got %.100s and error %v, want %.100s", got, err, test.want)
			}
		})
	}
}

func TestReadResultOfCutOutput(t *testing.T) {
	t.Parallel()
	cut := printed{stdout: []byte("{}"), written: 5 << 20}
	if got, err := readResult("", cut); got != nil || err != nil {
		t.Errorf("guessed %s, %v", got, err)
	}
	_, err := readResult("json", cut)
	if err == nil || !strings.Contains(err.Error(), "it printed 5242880 bytes, more than exec.output_limit keeps; write the result to the file that ATTUNE_RESULT_FILE names") {
		t.Errorf("json: %v", err)
	}
	_, err = readResult("", printed{fileErr: errors.New("it is a link, expected a file")})
	if err == nil || err.Error() != "cannot use the result file: it is a link, expected a file" {
		t.Errorf("file: %v", err)
	}
}

func TestReadResultFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("good"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("huge"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path("huge"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"good": "", "absent": "", "link": "it is a link", "pipe": "no regular file", "folder": "no regular file", "huge": "expected at most 2097152",
	} {
		_, err := readResultFile(path(name), nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A second name of another user's file, where the kernel allows such.
	if err := os.Link(path("good"), path("borrowed")); err != nil {
		t.Fatal(err)
	}
	if _, err := readResultFile(path("borrowed"), &child.User{UID: uint32(os.Geteuid()) + 1}); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("a second name: %v", err)
	}
}

func TestMisfits(t *testing.T) {
	t.Parallel()
	s := schema(t, `{"count": {"type": "integer", "required": true}, "name": {"type": "string"}}`, true)
	for result, want := range map[string]string{
		`{"count": 1, "more": true}`: "",
		`{"count": "x", "name": 5}`:  `the result does not fit output_schema: /count: found "x", expected integer; /name: found 5, expected string`,
		`[]`:                         "the result does not fit output_schema: the whole: ",
		``:                           "",
	} {
		var raw json.RawMessage
		if result != "" {
			raw = json.RawMessage(result)
		}
		got := misfits(s, raw)
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", result, got)
		}
	}
}

func FuzzReadResult(f *testing.F) {
	for _, text := range []string{`{"a":1}`, "[", "a: 1\n", "1\n2\n", "\x00\xff", `"\ud800"`, "{}{}"} {
		f.Add("json", text)
		f.Add("yaml", text)
		f.Add("jsonl", text)
		f.Add("", text)
	}
	f.Fuzz(func(t *testing.T, format, text string) {
		got, err := readResult(format, printed{stdout: []byte(text), whole: true})
		if err != nil && got != nil {
			t.Fatalf("both a result and an error: %s, %v", got, err)
		}
		if got != nil && (!json.Valid(got) || depth(got) > maxResultDepth) {
			t.Fatalf("%q gave %q", text, got)
		}
	})
}
