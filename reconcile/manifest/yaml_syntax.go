package manifest

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

var (
	yamlErrorLine    = regexp.MustCompile(`^yaml: line (\d+): `)
	unknownAnchor    = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced`)
	unquotedTemplate = regexp.MustCompile(`(?:^|[:\-,\[]\s+|^\s*)\{\{`)
)

// cause is yaml.v3's message without its own idea of the line.
func cause(err error) string {
	text := strings.TrimPrefix(yamlErrorLine.ReplaceAllString(err.Error(), ""), "yaml: ")
	return strings.TrimSpace(text)
}

// syntaxWords puts yaml.v3's messages into ours. at holds the characters of which the last one read is
// where to look.
var syntaxWords = []struct{ yaml, message, hint, at string }{
	{"mapping values are not allowed", `found a second ": " in one line`, `quote a text that holds ": ", or check the indentation`, ":"},
	{"cannot start any token", "found a character that no plain text may begin with", "quote the text", "@`%\t"},
	{"found unknown escape character", `found an escape that YAML does not know`, `write \\ for a backslash, or use single quotes`, `\`},
	{"could not find expected ':'", `found no ": " in this line`, `write "key: value"`, ""},
	{"did not find expected key", "found a line that does not belong to the mapping above it", "check its indentation and its quotes", ""},
	{"did not find expected '-'", "found a line that does not belong to the list above it", "check its indentation", ""},
	{"block sequence entries are not allowed", `found "- " where no list can begin`, "put the list on lines of its own", "-"},
	{"did not find expected node content", "found the end where a value should be", "close every bracket that opens", ""},
	{"exceeded max depth", fmt.Sprintf("more than %d levels deep", MaxDepth), "", ""},
	{"found unexpected end of stream", "found no end of the quoted text", "close the quote that opens here", `"'`},
}

// syntax tells a syntax error with its place. yaml.v3 names no column, no line at all for some errors,
// and for others the line where the surrounding mapping begins.
func (r *yamlReader) syntax(err error) {
	if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil {
		place := Place{Line: 1, Col: 1}
		if i := bytes.Index(r.content, []byte("*"+m[1])); i >= 0 {
			place = placeOf(r.content, i)
		}
		r.fail(place, fmt.Sprintf("define it with &%s above, or quote the text", m[1]),
			"cannot expand %s: there is no such anchor", quoted("*"+m[1]))
		return
	}
	message := cause(err)
	begin, end := r.syntaxLines(err, message)
	text := r.line(end)
	place := Place{Line: end, Col: 1 + utf8.RuneCountInString(text) - utf8.RuneCountInString(strings.TrimLeft(text, " \t"))}
	if tab := r.tabNear(end); tab != nil {
		r.fail(*tab, "indent with spaces", "cannot read the manifest: found a tab in the indentation")
		return
	}
	if at := unquotedTemplate.FindStringIndex(text); at != nil {
		r.unquoted(end, utf8.RuneCountInString(text[:at[1]])-1)
		return
	}
	hint := ""
	for _, known := range syntaxWords {
		if !strings.Contains(message, known.yaml) {
			continue
		}
		message, hint = known.message, known.hint
		if i := strings.LastIndexAny(text, known.at); known.at != "" && i >= 0 {
			place.Col = 1 + utf8.RuneCountInString(text[:i])
		}
	}
	if bracket, found := strings.CutPrefix(message, "did not find expected ',' or "); found {
		message = "found no ',' or " + bracket
		hint = fmt.Sprintf("close the bracket that opens at line %d", begin)
	}
	r.fail(place, hint, "cannot read the manifest: %s", message)
}

// line gives a line of the manifest, counted from 1.
func (r *yamlReader) line(n int) string {
	if n < 1 || n > len(r.lines) {
		return ""
	}
	return string(bytes.TrimRight(r.lines[n-1], "\r"))
}

// shortLine is line for what is done for each of many nodes: a file that is one long line would
// otherwise cost its square. It is empty for a longer line than people write.
func (r *yamlReader) shortLine(n int) string {
	const longest = 4096 // bytes
	if n < 1 || n > len(r.lines) || len(r.lines[n-1]) > longest {
		return ""
	}
	return r.line(n)
}

// tabNear finds a tab in the indentation of a line or the next: the scanner stops at either.
func (r *yamlReader) tabNear(n int) *Place {
	for _, line := range []int{n, n + 1} {
		text := r.line(line)
		indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
		if i := strings.IndexByte(indent, '\t'); i >= 0 && indent != text {
			return &Place{Line: line, Col: i + 1}
		}
	}
	return nil
}

// unquoted tells a template without quotes, and how it is written with them.
func (r *yamlReader) unquoted(line, col int) {
	hint := `write "{{ … }}"`
	if text := []rune(r.shortLine(line)); col >= 1 && col <= len(text) {
		template := strings.TrimSpace(string(text[col-1:]))
		if strings.ContainsAny(string(text[:col-1]), "{[") {
			before, _, _ := strings.Cut(template, "}}") // what follows closes the brackets around it
			template = before + "}}"
		}
		const longest = 80 // bytes
		switch {
		case len(template) > longest || !strings.Contains(template, "}}"):
		case strings.Contains(template, `"`):
			hint = "write '" + strings.ReplaceAll(template, "'", "''") + "'"
		default:
			hint = `write "` + template + `"`
		}
	}
	r.fail(Place{Line: line, Col: col}, hint, "cannot use {{ … }} without quotes: YAML takes it for a mapping")
}

// syntaxLines finds where the thing with the syntax error begins and where the error is. A scanner's
// error names the line of the token it was reading; the text is shifted down by one line so that line 1
// is named too. A parser's error names the beginning of the mapping; what helps is how far it had
// read, so it gets the bytes one by one.
func (r *yamlReader) syntaxLines(err error, message string) (begin, end int) {
	counter := &byteReader{content: append([]byte("\n"), r.content...)}
	_, again := decodeNode(yaml.NewDecoder(counter))
	if again == nil || cause(again) != message {
		again = err
	}
	// The parser has looked at the next character already, and may so have passed the line's end.
	read := min(max(counter.read-1, 0), len(r.content))
	before := bytes.TrimRight(r.content[:read], "\r\n \t")
	end = placeOf(r.content, len(before)).Line
	m := yamlErrorLine.FindStringSubmatch(again.Error())
	if m == nil {
		return end, end
	}
	n, _ := strconv.Atoi(m[1])
	if isParserMessage(message) {
		return max(min(n, end), 1), end
	}
	line := max(min(n-1, 1+bytes.Count(r.content, []byte("\n"))), 1)
	return line, line
}

// isParserMessage tells the parser's messages from the scanner's, which count lines differently.
func isParserMessage(message string) bool {
	return slices.ContainsFunc([]string{
		"did not find expected key", "did not find expected '-' indicator", "did not find expected node content",
		"did not find expected ',' or", "did not find expected <", "found duplicate", "found incompatible",
		"found undefined tag handle",
	}, func(m string) bool { return strings.HasPrefix(message, m) })
}

// byteReader gives one byte at a time and counts them.
type byteReader struct {
	content []byte
	read    int
}

func (b *byteReader) Read(p []byte) (int, error) {
	if b.read == len(b.content) {
		return 0, io.EOF
	}
	p[0] = b.content[b.read]
	b.read++
	return 1, nil
}
