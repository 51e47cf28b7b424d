package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxJSONDepth is far below what PostgreSQL's parser can take of its stack.
	maxJSONDepth = 64
	// maxNumberLength: float64 needs 17 digits and an exponent; PostgreSQL takes thousands, slowly.
	maxNumberLength = 400 // bytes
	// maxKeyLength keeps an event's key well inside an index entry, which holds some 2700 bytes.
	maxKeyLength = 255 // bytes

	replacement = "\uFFFD"
)

// cleanText gives a text that PostgreSQL takes: valid UTF-8 without NUL.
func cleanText(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, replacement)
	}
	if strings.IndexByte(text, 0) >= 0 {
		text = strings.ReplaceAll(text, "\x00", replacement)
	}
	return text
}

// cleanKey gives the form in which an event's own id is indexed. Ids that had to be changed end in
// their digest, so that two different ones stay different.
func cleanKey(id string) string {
	key := cleanText(id)
	if key == id && len(key) <= maxKeyLength {
		return key
	}
	sum := sha256.Sum256([]byte(id))
	digest := "#" + hex.EncodeToString(sum[:])
	if room := maxKeyLength - len(digest); len(key) > room {
		key = strings.ToValidUTF8(key[:room], "")
	}
	return key + digest
}

// cleanJSON gives JSON that PostgreSQL takes as jsonb and encoding/json reads into maps, and says
// what it had to change; empty: nothing. Absent JSON becomes the empty object, and what is no JSON at
// all {"raw": "…"}.
func cleanJSON(raw json.RawMessage) (clean json.RawMessage, problem string) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return json.RawMessage(`{}`), ""
	}
	if isPlainJSON(raw) {
		return raw, ""
	}
	if !json.Valid(raw) {
		text, err := json.Marshal(map[string]string{"raw": cleanText(string(raw))})
		if err != nil {
			panic("store: a string must have a JSON form: " + err.Error())
		}
		return text, "it is not valid JSON and is kept as text"
	}
	w := rewriter{in: json.NewDecoder(bytes.NewReader(raw))}
	w.in.UseNumber()
	if !utf8.Valid(raw) {
		w.note("bytes that are no UTF-8 were replaced")
	}
	if hasHalfSurrogate(raw) {
		w.note("halves of surrogate pairs were replaced")
	}
	if err := w.value(0); err != nil {
		// Valid JSON leads nowhere near here: the reader and json.Valid are one parser.
		panic("store: valid JSON could not be rewritten: " + err.Error())
	}
	if len(w.notes) == 0 {
		return raw, ""
	}
	return w.out.Bytes(), strings.Join(w.notes, ", ")
}

// isPlainJSON says, in one look and without allocating, that raw is JSON that certainly needs no change: what nearly
// all of it is, and json.Valid takes four times as long for. It may say no to some that does not need one either.
func isPlainJSON(raw []byte) bool {
	r := plainReader{text: raw}
	return utf8.Valid(raw) && r.value(0) && r.peek() == 0 && r.at == len(raw)
}

// PlainFields calls field for each field of an object, in their order, with the key as it is written between its quotes
// and the value as it is written. It gives false where text is no object of JSON that certainly needs no change (see
// isPlainJSON), of which field may be told a beginning, or where field does: then somebody has to look closer.
func PlainFields(text []byte, field func(key, value []byte) bool) bool {
	r := plainReader{text: text}
	if !utf8.Valid(text) || r.peek() != '{' {
		return false
	}
	all := r.list('}', 1, func() bool {
		r.peek()
		key := r.at
		if !r.string() {
			return false
		}
		end := r.at
		if !r.take(':') {
			return false
		}
		r.peek()
		value := r.at
		return r.value(1) && field(text[key+1:end-1], text[value:r.at])
	})
	return all && r.peek() == 0 && r.at == len(text)
}

// plainReader reads JSON (RFC 8259) to find out whether it is plain. Its methods leave at behind what they read.
type plainReader struct {
	text []byte
	at   int
}

// peek gives the next byte that is no space; 0: there is none, or it is no JSON.
func (r *plainReader) peek() byte {
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take reads one byte, if it is the next that is no space.
func (r *plainReader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.at++
	return true
}

func (r *plainReader) value(depth int) bool {
	switch c := r.peek(); c {
	case '"':
		return r.string()
	case '{':
		return r.list('}', depth+1, func() bool { return r.string() && r.take(':') && r.value(depth+1) })
	case '[':
		return r.list(']', depth+1, func() bool { return r.value(depth + 1) })
	case 't':
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	default:
		return r.number()
	}
}

// list reads what an opening bracket begins.
func (r *plainReader) list(end byte, depth int, element func() bool) bool {
	if depth > maxJSONDepth {
		return false
	}
	r.at++
	if r.take(end) {
		return true
	}
	for {
		if !element() {
			return false
		}
		if !r.take(',') {
			return r.take(end)
		}
	}
}

func (r *plainReader) word(word string) bool {
	if !bytes.HasPrefix(r.text[r.at:], []byte(word)) {
		return false
	}
	r.at += len(word)
	return true
}

func (r *plainReader) string() bool {
	if !r.take('"') {
		return false
	}
	for ; r.at < len(r.text); r.at++ {
		for r.at+8 <= len(r.text) && isText(binary.LittleEndian.Uint64(r.text[r.at:])) {
			r.at += 8
		}
		if r.at == len(r.text) {
			return false
		}
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			return true
		case c < ' ':
			return false
		case c == '\\':
			if !r.escape() {
				return false
			}
		}
	}
	return false
}

// isText says that none of eight bytes is a quote, a backslash or a control character: what is less than a space
// borrows from its highest bit, and so does a zero, which a character is once it is compared with itself.
func isText(eight uint64) bool {
	const low, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := eight^(low*'"'), eight^(low*'\\')
	return ((eight-low*' ')&^eight|(quote-low)&^quote|(backslash-low)&^backslash)&high == 0
}

// escape reads the escape that a backslash begins, up to its last byte.
func (r *plainReader) escape() bool {
	r.at++
	if r.at == len(r.text) {
		return false
	}
	if r.text[r.at] != 'u' {
		return strings.IndexByte(`"\/bfnrt`, r.text[r.at]) >= 0
	}
	// NUL and halves of surrogate pairs are told only by looking closer.
	unit := r.text[r.at+1 : min(r.at+5, len(r.text))]
	r.at += 4
	return len(unit) == 4 && string(unit) != "0000" && unit[0] != 'd' && unit[0] != 'D' &&
		!slices.ContainsFunc(unit, func(c byte) bool { return (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') })
}

// number reads a number without an exponent, of up to 300 bytes: it is below the largest float64.
func (r *plainReader) number() bool {
	start := r.at
	if r.at < len(r.text) && r.text[r.at] == '-' {
		r.at++
	}
	zero := r.at < len(r.text) && r.text[r.at] == '0'
	if n := r.digits(); n == 0 || zero && n > 1 {
		return false
	}
	if r.at < len(r.text) && r.text[r.at] == '.' {
		if r.at++; r.digits() == 0 {
			return false
		}
	}
	exponent := r.at < len(r.text) && r.text[r.at]|0x20 == 'e'
	return !exponent && r.at-start <= 300
}

func (r *plainReader) digits() (n int) {
	for ; r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9'; r.at++ {
		n++
	}
	return n
}

// hasHalfSurrogate says whether valid JSON has an escape \ud800 to \udfff without its other half.
func hasHalfSurrogate(raw []byte) bool {
	for i := 0; i+1 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++
		if raw[i] != 'u' {
			continue
		}
		unit := escapedUnit(raw[i-1:])
		switch {
		case unit >= 0xd800 && unit < 0xdc00:
			if low := escapedUnit(raw[i+5:]); low < 0xdc00 || low > 0xdfff {
				return true
			}
			i += 6
		case unit >= 0xdc00 && unit <= 0xdfff:
			return true
		}
	}
	return false
}

// escapedUnit reads an escape like \u00e4 at the start of text; 0 where there is none.
func escapedUnit(text []byte) uint64 {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return unit
}

// rewriter copies one JSON value and repairs it on the way. The reader itself replaces bytes that
// are no UTF-8 and halves of surrogate pairs.
type rewriter struct {
	in    *json.Decoder
	out   bytes.Buffer
	notes []string
}

func (w *rewriter) note(text string) {
	if !slices.Contains(w.notes, text) {
		w.notes = append(w.notes, text)
	}
}

// value copies the next value; depth is how many objects and lists it is in.
func (w *rewriter) value(depth int) error {
	if depth >= maxJSONDepth {
		return w.flatten()
	}
	token, err := w.in.Token()
	if err != nil {
		return err
	}
	switch token := token.(type) {
	case json.Delim:
		return w.nested(token, depth)
	case string:
		return w.text(token)
	case json.Number:
		return w.number(token)
	case bool:
		w.out.WriteString(strconv.FormatBool(token))
	case nil:
		w.out.WriteString("null")
	}
	return nil
}

func (w *rewriter) nested(open json.Delim, depth int) error {
	w.out.WriteByte(byte(open))
	for first := true; w.in.More(); first = false {
		if !first {
			w.out.WriteByte(',')
		}
		if open == '{' {
			if err := w.key(); err != nil {
				return err
			}
			w.out.WriteByte(':')
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
	}
	closing, err := w.in.Token()
	if err != nil {
		return err
	}
	delim, ok := closing.(json.Delim)
	if !ok {
		return errors.New("expected the end of an object or list")
	}
	w.out.WriteByte(byte(delim))
	return nil
}

func (w *rewriter) key() error {
	token, err := w.in.Token()
	if err != nil {
		return err
	}
	key, ok := token.(string)
	if !ok {
		return errors.New("expected a key")
	}
	return w.text(key)
}

// flatten keeps what is nested too deep as its text.
func (w *rewriter) flatten() error {
	var raw json.RawMessage
	if err := w.in.Decode(&raw); err != nil {
		return err
	}
	if raw[0] != '{' && raw[0] != '[' {
		inner := rewriter{in: json.NewDecoder(bytes.NewReader(raw))}
		inner.in.UseNumber()
		if err := inner.value(0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		w.out.Write(inner.out.Bytes())
		for _, note := range inner.notes {
			w.note(note)
		}
		return nil
	}
	w.note("values nested deeper than " + strconv.Itoa(maxJSONDepth) + " are kept as text")
	return w.text(string(raw))
}

func (w *rewriter) text(text string) error {
	clean := cleanText(text)
	if clean != text {
		w.note("NUL characters were replaced")
	}
	quoted, err := json.Marshal(clean)
	if err != nil {
		return err
	}
	w.out.Write(quoted)
	return nil
}

// number keeps a number that float64 cannot hold as text: rules could not read it.
func (w *rewriter) number(number json.Number) error {
	text := string(number)
	if _, err := strconv.ParseFloat(text, 64); err == nil && len(text) <= maxNumberLength && !isTiny(text) {
		w.out.WriteString(text)
		return nil
	}
	w.note("numbers out of range are kept as text")
	return w.text(text)
}

// isTiny says whether a number has an exponent below those of float64, which ParseFloat takes for 0
// and PostgreSQL refuses from some point on.
func isTiny(number string) bool {
	at := strings.IndexAny(number, "eE")
	if at < 0 {
		return false
	}
	exponent, err := strconv.Atoi(strings.TrimPrefix(number[at+1:], "+"))
	return err != nil || exponent < -400
}
