package child

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMask(t *testing.T) {
	t.Parallel()
	const secret = `pa"ss/w&örd<1>`
	const multi = "-----BEGIN-----\nMIIEvQIBADANBg\r\nkqhkiG9w0BAQ\n-----END-----"
	m := NewMask([]string{secret, multi, "short"})
	std, raw := base64.StdEncoding, base64.RawURLEncoding
	quoted, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, in, want string }{
		{"nothing", "hello", "hello"},
		{"plain", "x " + secret + " y", "x *** y"},
		{"twice", secret + secret, "******"},
		{"too short to mask", "short", "short"},
		{"JSON", `{"a":` + string(quoted) + `}`, `{"a":"***"}`},
		{"JSON without HTML", `pa\"ss/w&örd<1>`, "***"},
		{"JSON by Python", `"pa\"ss/w&\u00f6rd<1>"`, `"***"`},
		{"query", "?q=" + url.QueryEscape(secret) + "&", "?q=***&"},
		{"path", "/" + url.PathEscape(secret) + "/", "/***/"},
		{"query, lower case", strings.ToLower(url.QueryEscape("xxxxx/ö?")), "xxxxx%2f%c3%b6%3f"},
		{"whole of many lines", "a" + multi + "b", "a***b"},
		{"one of many lines", "a kqhkiG9w0BAQ b", "a *** b"},
		{"begun only", secret[:8], secret[:8]},
		{"begun, then whole", secret[:8] + secret, secret[:8] + "***"},
	} {
		if got := m.String(tc.in); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
	for _, enc := range []*base64.Encoding{std, raw} {
		for offset := range 3 {
			for after := range 3 {
				text := enc.EncodeToString([]byte(strings.Repeat("a", offset) + secret + strings.Repeat("b", after)))
				got := m.String(text)
				// What stands around it may stay: a group of four at each end, and the padding.
				if !strings.Contains(got, maskText) || len(got) > len(maskText)+9 {
					t.Errorf("base64 at %d: %q became %q", offset, text, got)
				}
			}
		}
	}
	if got := NewMask([]string{"", "12345", "a\nb\n"}); got != nil {
		t.Errorf("nothing is long enough, and it masks %q", got.String("12345"))
	}
	var none *Mask
	if none.String("x") != "x" || string(none.Bytes([]byte("x"))) != "x" {
		t.Error("nil masks something")
	}
}

// TestMaskWrappedBase64: base64(1) breaks its lines after 76 characters.
func TestMaskWrappedBase64(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("0123456789abcdef", 20)
	cmd := exec.Command("base64")
	cmd.Stdin = strings.NewReader("xx" + secret + "yy")
	out, err := cmd.Output()
	if err != nil {
		t.Skip(err)
	}
	got := NewMask([]string{secret}).String(string(out))
	if !strings.Contains(got, maskText) || len(got) > 20 {
		t.Errorf("got %q", got)
	}
}

func TestMaskOverlap(t *testing.T) {
	t.Parallel()
	m := NewMask([]string{"abcdefgh", "efghijkl", "abcdef"})
	if got := m.String("-abcdefghijkl-abcdef-"); got != "-***-***-" {
		t.Errorf("got %q", got)
	}
}

// TestMaskStreams gives the value in pieces, through a Capture, and looks that nothing waits that cannot
// be part of it.
func TestMaskStreams(t *testing.T) {
	t.Parallel()
	c := NewCapture(100, NewMask([]string{"geheimnis"}))
	for _, piece := range []string{"a gehe", "imn", "is b geh", "t c gehei"} {
		c.Write([]byte(piece))
	}
	if text, _, _ := c.Text(); text != "a *** b geht c " {
		t.Errorf("before the end: %q", text)
	}
	c.Close()
	if text, total, _ := c.Text(); text != "a *** b geht c gehei" || total != int64(len(text)) {
		t.Errorf("at the end: %q, %d", text, total)
	}
}

// TestMaskStaysFast has a stream that begins like a value for ever.
func TestMaskStaysFast(t *testing.T) {
	t.Parallel()
	m := NewMask([]string{strings.Repeat("A", 100) + "B"})
	s := m.masker()
	begun := time.Now()
	for range 100 {
		s.write(bytes.Repeat([]byte("A"), 10000))
	}
	b64 := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("A", 100)))
	s.write([]byte(b64))
	for range 100 {
		s.write(bytes.Repeat([]byte("\n"), 10000))
	}
	if len(s.pending) > 1000 {
		t.Errorf("%d bytes wait", len(s.pending))
	}
	if d := time.Since(begun); d > patience {
		t.Errorf("took %v", d)
	}
}

func FuzzMask(f *testing.F) {
	f.Add("geheimnis", "zweites\nmit zeile", []byte("a geheimnis b"), []byte{3, 0}, byte(0))
	f.Add("AAAAAAA", "AAAAAAB", []byte("AAAAAAAAAB"), []byte{0}, byte(1))
	f.Fuzz(func(t *testing.T, one, two string, text, cuts []byte, encoding byte) {
		m := NewMask([]string{one, two})
		if m == nil {
			t.Skip()
		}
		// The value stands in the text, as it is or encoded.
		planted := one
		switch encoding % 4 {
		case 1:
			planted = base64.StdEncoding.EncodeToString([]byte(one))
		case 2:
			planted = url.QueryEscape(one)
		case 3:
			quoted, _ := json.Marshal(one)
			planted = string(quoted)
		}
		at := 0
		if len(text) > 0 {
			at = int(encoding) % len(text)
		}
		text = append(append(bytes.Clone(text[:at]), planted...), text[at:]...)

		want := m.Bytes(text)
		s := m.masker()
		var got []byte
		c := &chunks{data: text, cuts: cuts}
		for len(c.data) > 0 {
			n := c.next(len(c.data))
			got = append(got, s.write(c.data[:n])...)
			c.data = c.data[n:]
		}
		got = append(got, s.flush()...)
		if !bytes.Equal(got, want) {
			t.Fatalf("in chunks %q, whole %q", got, want)
		}
		for _, v := range []string{one, two} {
			// A value of stars may be made by the masking itself.
			if len(v) >= minSecret && !strings.Contains(v, "*") && bytes.Contains(got, []byte(v)) {
				t.Fatalf("%q still holds %q", got, v)
			}
		}
	})
}

func BenchmarkMask(b *testing.B) {
	line := []byte(strings.Repeat("a line of quite ordinary text, as programs print it\n", 1000))
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprint(n, " values"), func(b *testing.B) {
			var values []string
			for i := range n {
				values = append(values, fmt.Sprintf("secret-value-%d-%x", i, i*7919))
			}
			s := NewMask(values).masker()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				s.write(line)
			}
		})
	}
}

func TestMaskWriter(t *testing.T) {
	t.Parallel()
	for _, m := range []*Mask{nil, NewMask([]string{"swordfish"})} {
		var got strings.Builder
		w := m.Writer(&got)
		for _, piece := range []string{"a sword", "fish and a swor", "d, then a sword"} {
			if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
				t.Errorf("wrote %d: %v", n, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		want := "a swordfish and a sword, then a sword"
		if m != nil {
			want = "a *** and a sword, then a sword"
		}
		if got.String() != want {
			t.Errorf("got %q, want %q", got.String(), want)
		}
	}
}

func TestMaskTrimmed(t *testing.T) {
	t.Parallel()
	m := NewMask([]string{"  swordfish\t\n starfish \n"})
	if got := m.String("<swordfish> and <starfish>"); got != "<***> and <***>" {
		t.Errorf("got %q", got)
	}
}
