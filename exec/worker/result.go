package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// maxResult bounds a result, in bytes: it goes into one column of one row, and stays for as long as
	// the execution is remembered. What is larger belongs into a file or an object store.
	maxResult = 2 << 20

	// maxResultDepth bounds the nesting of a result; PostgreSQL and readers in other languages give up
	// somewhere above.
	maxResultDepth = 64
)

// printed is what an attempt left to find a result in.
type printed struct {
	stdout []byte
	// whole says that nothing of stdout was left out.
	whole   bool
	written int64 // bytes of stdout
	// file is the content of the result file; nil: there is none.
	file    []byte
	fileErr error // why it cannot be used
}

// readResult finds the result in what an action printed, by its output_format; nil: there is none. An
// error says why what should be a result is none.
func readResult(format string, p printed) (json.RawMessage, error) {
	if p.fileErr != nil {
		return nil, fmt.Errorf("cannot use the result file: %w", p.fileErr)
	}
	if len(bytes.TrimSpace(p.file)) > 0 {
		// Who writes the file means it, so it is read also where stdout is not.
		result, err := parseResult(format, p.file)
		if err != nil {
			return nil, fmt.Errorf("cannot use the result file: %w", err)
		}
		return result, nil
	}
	switch format {
	case manifest.OutputText:
		return nil, nil
	case manifest.OutputAuto:
		return guessResult(p), nil
	}
	if !p.whole {
		return nil, fmt.Errorf("cannot read stdout as %s: it printed %d bytes, more than exec.output_limit keeps; write the result to the file that ATTUNE_RESULT_FILE names", format, p.written)
	}
	result, err := parseResult(format, p.stdout)
	if err != nil {
		return nil, fmt.Errorf("cannot read stdout as %s: %w", format, err)
	}
	return result, nil
}

// guessResult takes stdout for the result where it is one JSON object or list as a whole.
func guessResult(p printed) json.RawMessage {
	text := bytes.TrimSpace(p.stdout)
	if !p.whole || len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return nil
	}
	result, err := parseJSON(text)
	if err != nil {
		return nil
	}
	return result
}

func parseResult(format string, text []byte) (json.RawMessage, error) {
	if len(text) > maxResult {
		return nil, fmt.Errorf("it has %d bytes, expected at most %d", len(text), maxResult)
	}
	switch format {
	case manifest.OutputYAML:
		value, err := manifest.ReadYAML([]byte(child.Sanitize(text)))
		if err != nil {
			return nil, err
		}
		encoded, err := encodeJSON(value)
		if err != nil {
			return nil, err
		}
		return parseJSON(encoded)
	case manifest.OutputJSONL:
		return parseLines(text)
	default:
		return parseJSON(text)
	}
}

// parseLines makes a list of one JSON value a line.
func parseLines(text []byte) (json.RawMessage, error) {
	list := []byte{'['}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		value, err := parseJSON(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if len(list) > 1 {
			list = append(list, ',')
		}
		list = append(list, value...)
	}
	return append(list, ']'), nil
}

// parseJSON checks that a text is one JSON value, and gives it without spaces. Numbers stay as they
// were written.
func parseJSON(text []byte) (json.RawMessage, error) {
	text = []byte(child.Sanitize(bytes.TrimSpace(text)))
	if len(text) == 0 {
		return nil, errors.New("it is empty, expected JSON")
	}
	if len(text) > maxResult {
		return nil, fmt.Errorf("it has %d bytes, expected at most %d", len(text), maxResult)
	}
	var value json.RawMessage // unlike Compact this tells the place of a mistake
	if err := json.Unmarshal(text, &value); err != nil {
		return nil, jsonProblem(text, err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		return nil, jsonProblem(text, err)
	}
	if depth(b.Bytes()) > maxResultDepth {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxResultDepth)
	}
	return b.Bytes(), nil
}

func jsonProblem(text []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return fmt.Errorf("it is not JSON: %v", err)
	}
	before := text[:min(int(syntax.Offset), len(text))]
	line := 1 + bytes.Count(before, []byte("\n"))
	col := max(len(before)-1-bytes.LastIndexByte(before, '\n'), 1)
	return fmt.Errorf("it is not JSON: line %d, column %d: %s", line, col, strings.TrimPrefix(syntax.Error(), "json: "))
}

// depth tells how deep valid JSON is nested.
func depth(text []byte) (deepest int) {
	level, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// misfits tells what about a result is not as the output_schema says; empty: nothing.
func misfits(schema *manifest.Schema, result json.RawMessage) string {
	if schema == nil || result == nil {
		return ""
	}
	decoder := json.NewDecoder(bytes.NewReader(result))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return "the result cannot be read again: " + err.Error()
	}
	errs := schema.Validate(value)
	if len(errs) == 0 {
		return ""
	}
	const shown = 5 // findings; who has more sees the pattern
	texts := make([]string, 0, shown+1)
	for i, e := range errs {
		if i == shown {
			texts = append(texts, fmt.Sprintf("and %d more", len(errs)-shown))
			break
		}
		pointer := e.Pointer
		if pointer == "" {
			pointer = "the whole"
		}
		texts = append(texts, pointer+": "+e.Message)
	}
	return "the result does not fit output_schema: " + strings.Join(texts, "; ")
}

const (
	// resultTries and resultPause are for a daemon that has run out of descriptors: the action has done
	// its work, so its result is worth waiting for.
	resultTries = 100
	resultPause = 50 * time.Millisecond
)

// isBorrowed tells whether a file of somebody else's has another name elsewhere.
func isBorrowed(info fs.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 1 && int(st.Uid) != uid
}

func openResult(path string) (fd int, err error) {
	for range resultTries {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if child.ShortageOf(err) != child.ShortageFiles {
			break
		}
		<-time.After(resultPause)
	}
	return fd, err
}

// readResultFile reads what the child wrote, if anything: it may be a link, a pipe or a disk full of
// zeros as well, or a second name of what its user may not read.
func readResultFile(path string, owner *child.User) ([]byte, error) {
	fd, err := openResult(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a link, expected a file")
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case isBorrowed(info, uidOf(owner)):
		return nil, errors.New("it is a link to a file of another user, expected a file of its own")
	case info.Size() > maxResult:
		return nil, fmt.Errorf("it has %d bytes, expected at most %d", info.Size(), maxResult)
	}
	return io.ReadAll(io.LimitReader(f, maxResult))
}
