package child

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	// minSecret is the shortest value that is masked, in bytes: shorter ones would mask everything.
	minSecret = 6
	maskText  = "***"
)

// Mask replaces secret values in a stream, also across chunk borders, in base64, URL and JSON
// encodings. Where two values overlap, all that both cover is replaced. It cannot know a value that was
// turned round, cut to pieces or encrypted: it guards against accidents, not against the program. A Mask
// is never changed and may be shared.
type Mask struct {
	// byFirst are the patterns by their first byte, the longest first.
	byFirst [256][]pattern
}

type pattern struct {
	text []byte
	// wraps says that line ends inside are skipped: tools break base64 into lines.
	wraps bool
}

// NewMask makes a mask for the values; those shorter than 6 bytes are left out, as they would mask
// everything. nil where nothing is to be masked.
func NewMask(values []string) *Mask {
	seen := map[string]bool{} // pattern to wraps
	for _, v := range values {
		for _, part := range append(splitLines(v), v) {
			addVariants(seen, part)
			// Who reads a secret from a file or a line often cuts what is around it.
			addVariants(seen, strings.TrimSpace(part))
		}
	}
	if len(seen) == 0 {
		return nil
	}
	m := &Mask{}
	for text, wraps := range seen {
		m.byFirst[text[0]] = append(m.byFirst[text[0]], pattern{[]byte(text), wraps})
	}
	// By its place: a copy of the table would be the largest frame of an attempt, and have its stack grown.
	for i := range m.byFirst {
		slices.SortFunc(m.byFirst[i], func(a, b pattern) int {
			if d := len(b.text) - len(a.text); d != 0 {
				return d
			}
			return bytes.Compare(a.text, b.text)
		})
	}
	return m
}

func splitLines(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool { return r == '\n' || r == '\r' })
}

// addVariants adds a value and what common encoders make of it.
func addVariants(seen map[string]bool, v string) {
	if len(v) < minSecret {
		return
	}
	for _, plain := range []string{
		v,
		jsonEscaped(v, true), jsonEscaped(v, false), asciiEscaped(v),
		url.QueryEscape(v), url.PathEscape(v),
		lowerEscapes(url.QueryEscape(v)), lowerEscapes(url.PathEscape(v)),
	} {
		if _, ok := seen[plain]; !ok {
			seen[plain] = false
		}
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			if core := base64Core(encoding, v, offset); len(core) >= minSecret {
				seen[core] = true
			}
		}
	}
}

// base64Core is what the value becomes when it stands at an offset in something larger: without the
// characters at both ends that depend on its neighbours too.
func base64Core(encoding *base64.Encoding, v string, offset int) string {
	text := encoding.EncodeToString(append(make([]byte, offset), v...))
	first := (8*offset + 5) / 6
	last := 8 * (offset + len(v)) / 6
	return text[first:last]
}

func jsonEscaped(v string, html bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	if enc.Encode(v) != nil {
		return v
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}

// asciiEscaped is JSON as Python writes it: nothing beyond ASCII, in \uXXXX.
func asciiEscaped(v string) string {
	var b strings.Builder
	for _, r := range jsonEscaped(v, false) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// Bytes masks a text that is complete.
func (m *Mask) Bytes(p []byte) []byte {
	if m == nil {
		return p
	}
	s := m.masker()
	out := bytes.Clone(s.write(p))
	return append(out, s.flush()...)
}

// String masks a text that is complete.
func (m *Mask) String(s string) string {
	if m == nil {
		return s
	}
	return string(m.Bytes([]byte(s)))
}

// Writer masks what goes through it to w, across the borders of writes. Close hands on what only began like
// a value; it does not close w.
func (m *Mask) Writer(w io.Writer) io.WriteCloser {
	if m == nil {
		return unmasked{w}
	}
	return &maskWriter{masker: m.masker(), w: w}
}

type unmasked struct{ io.Writer }

func (unmasked) Close() error { return nil }

type maskWriter struct {
	masker *masker
	w      io.Writer
}

func (m *maskWriter) Write(p []byte) (int, error) {
	if _, err := m.w.Write(m.masker.write(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *maskWriter) Close() error {
	_, err := m.w.Write(m.masker.flush())
	return err
}

func (m *Mask) masker() *masker { return &masker{mask: m} }

// masker is the state of one stream.
type masker struct {
	mask    *Mask
	pending []byte // not decided yet
	covered int    // so many bytes of pending belong to a value that was replaced already
	out     []byte
}

// write gives what is decided; it is valid until the next call.
func (s *masker) write(p []byte) []byte {
	s.pending = append(s.pending, p...)
	return s.decide(false)
}

// flush decides the rest: what only began like a value was none.
func (s *masker) flush() []byte { return s.decide(true) }

// decide goes byte by byte, and stops where a value may have begun whose end has not come yet: so what
// it gives does not depend on how the stream was cut.
func (s *masker) decide(final bool) []byte {
	s.out = s.out[:0]
	i := 0
	for ; i < len(s.pending); i++ {
		n, open := s.match(s.pending[i:])
		if open && !final {
			break
		}
		if n > s.covered {
			if s.covered == 0 {
				s.out = append(s.out, maskText...)
			}
			s.covered = n
		}
		if s.covered > 0 {
			s.covered--
		} else {
			s.out = append(s.out, s.pending[i])
		}
	}
	s.pending = append(s.pending[:0], s.pending[i:]...)
	return s.out
}

// match gives the length of the longest value that begins here, and whether a longer one still may.
func (s *masker) match(b []byte) (n int, open bool) {
	for _, p := range s.mask.byFirst[b[0]] {
		used, state := p.match(b)
		switch state {
		case whole:
			n = max(n, used)
		case begun:
			open = true
		}
	}
	return n, open
}

type matchState int

const (
	none  matchState = iota
	begun            // all that is there fits
	whole
)

func (p pattern) match(b []byte) (used int, state matchState) {
	if !p.wraps {
		if len(b) >= len(p.text) {
			if bytes.HasPrefix(b, p.text) {
				return len(p.text), whole
			}
			return 0, none
		}
		if bytes.HasPrefix(p.text, b) {
			return 0, begun
		}
		return 0, none
	}
	at, skipped := 0, 0
	for i, c := range b {
		switch {
		case c == p.text[at]:
			skipped = 0
			if at++; at == len(p.text) {
				return i + 1, whole
			}
		case (c == '\n' || c == '\r') && skipped < len("\r\n"):
			skipped++
		default:
			return 0, none
		}
	}
	return 0, begun
}
