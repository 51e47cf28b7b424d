package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/attune-io/attune/reconcile/manifest"
)

// entry is a key of a TOML file, or the header of a table.
type entry struct {
	path  []string
	place manifest.Place
	// value is where the value stands, as far as the parser tells, else the key.
	value manifest.Place
	// table says that it is a header: [path], or an inline table.
	table bool
}

// read sets what the text gives and tells everything that is wrong with it. The library decodes; that
// every key is known and has its type is checked here, since its own words name Go types, and since a
// bare number would pass as a duration.
func (c *Config) read(file string, text []byte) []ConfigProblem {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	document := map[string]any{}
	if err := toml.Unmarshal(text, &document); err != nil {
		return []ConfigProblem{syntaxProblem(file, err)}
	}
	entries, err := entriesOf(file, text)
	if err != nil {
		return []ConfigProblem{syntaxProblem(file, err)}
	}
	keys := c.keys()
	var problems []ConfigProblem
	var unknown [][]string // tables that were told: nothing below them is told again
	for _, e := range entries {
		if slices.ContainsFunc(unknown, func(table []string) bool { return hasPrefix(e.path, table) }) {
			continue
		}
		name := strings.Join(e.path, ".")
		found := lookup(document, e.path)
		i := slices.IndexFunc(keys, func(k key) bool { return k.key == name })
		switch {
		case i >= 0:
			c.given(name, e.place)
			if err := keys[i].value.set(found); err != nil {
				p := c.problem(name, "%v", err)
				p.Place = e.value
				problems = append(problems, p)
				unknown = append(unknown, e.path)
			}
		case hasPrefix(e.path, []string{"packs", "config"}):
			if p := c.readPackConfig(document, e, name); p != nil {
				problems = append(problems, *p)
				unknown = append(unknown, e.path)
			}
		case len(e.path) == 1 && slices.Contains(sections(keys), name):
			if _, ok := found.(map[string]any); !ok {
				problems = append(problems, ConfigProblem{Place: e.value, Key: name, Message: fmt.Sprintf(
					"cannot use %s: found %s, expected a table", name, describe(found))})
				unknown = append(unknown, e.path)
			}
		default:
			problems = append(problems, unknownKey(e, name, keys))
			unknown = append(unknown, e.path)
		}
	}
	return problems
}

// readPackConfig takes an entry at or below [packs.config]. What a key means is the pack's to say.
func (c *Config) readPackConfig(document map[string]any, e entry, name string) *ConfigProblem {
	const packDepth, keyDepth = 3, 4 // packs.config.<pack>.<key>
	if len(e.path) <= packDepth {
		found := lookup(document, e.path)
		if _, ok := found.(map[string]any); !ok {
			return &ConfigProblem{Place: e.value, Key: name, Message: fmt.Sprintf(
				"cannot use %s: found %s, expected a table", name, describe(found))}
		}
		return nil
	}
	pack, key := e.path[packDepth-1], e.path[packDepth]
	if c.Packs.Config[pack] == nil {
		c.Packs.Config[pack] = map[string]any{}
	}
	// What lies deeper may come first: a table needs no header of its own.
	full := strings.Join(e.path[:keyDepth], ".")
	if _, ok := c.places[full]; !ok {
		c.Packs.Config[pack][key] = plainValue(lookup(document, e.path[:keyDepth]))
		c.given(full, e.place)
	}
	return nil
}

// plainValue turns dates into strings, for JSON has none, and empty arrays stay arrays.
func plainValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		plain := make(map[string]any, len(v))
		for key, item := range v {
			plain[key] = plainValue(item)
		}
		return plain
	case []any:
		plain := make([]any, len(v))
		for i, item := range v {
			plain[i] = plainValue(item)
		}
		return plain
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case fmt.Stringer: // the three local kinds of date and time
		return v.String()
	default:
		return v
	}
}

func unknownKey(e entry, name string, keys []key) ConfigProblem {
	section := e.path[0]
	var inSection, last, all []string
	for _, k := range keys {
		all = append(all, k.key)
		if s, rest, _ := strings.Cut(k.key, "."); s == section {
			inSection = append(inSection, rest)
			last = append(last, rest)
		}
	}
	p := ConfigProblem{Place: e.place, Key: name}
	switch {
	case len(e.path) == 1 && e.table:
		names := append(sections(keys), "packs.config.<pack>")
		p.Message = fmt.Sprintf("cannot use table [%s]: found an unknown table, expected one of %s", name, strings.Join(names, ", "))
		p.Hint = didYouMean(name, sections(keys))
	case inSection != nil:
		if section == "packs" {
			last = append(last, "config")
		}
		p.Message = fmt.Sprintf("cannot use %s: found an unknown key, expected one of %s", name, strings.Join(last, ", "))
		p.Hint = didYouMean(strings.Join(e.path[1:], "."), last)
	default:
		p.Message = fmt.Sprintf("cannot use %s: found an unknown key, expected a key of a table", name)
		p.Hint = didYouMean(name, all)
	}
	if p.Hint == "" && !e.table {
		p.Hint = elsewhere(e.path[len(e.path)-1], all)
	}
	return p
}

// elsewhere says in which table a key stands that was written into another, or into none.
func elsewhere(name string, all []string) string {
	for _, full := range all {
		if section, key, _ := strings.Cut(full, "."); key == name {
			return fmt.Sprintf("did you mean %s in [%s]?", key, section)
		}
	}
	return ""
}

func sections(keys []key) []string {
	var names []string
	for _, k := range keys {
		section, _, _ := strings.Cut(k.key, ".")
		if !slices.Contains(names, section) {
			names = append(names, section)
		}
	}
	return names
}

// syntaxProblem is what the parser stopped at.
func syntaxProblem(file string, err error) ConfigProblem {
	place := manifest.Place{File: file}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		place.Line, place.Col = decode.Position()
	}
	return ConfigProblem{Place: place, Message: "cannot read TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
}

// entriesOf lists all keys and headers with their places.
func entriesOf(file string, text []byte) ([]entry, error) {
	var entries []entry
	parser := &unstable.Parser{}
	parser.Reset(text)
	place := func(r unstable.Range) manifest.Place {
		start := parser.Shape(r).Start
		return manifest.Place{File: file, Line: start.Line, Col: start.Column}
	}
	var header []string
	var keyValue func(prefix []string, node *unstable.Node)
	keyValue = func(prefix []string, node *unstable.Node) {
		path, at := keyPath(node, place)
		e := entry{path: slices.Concat(prefix, path), place: at, value: at}
		value := node.Value()
		if value.Raw.Length > 0 {
			e.value = place(value.Raw)
		}
		e.table = value.Kind == unstable.InlineTable
		entries = append(entries, e)
		if e.table {
			for children := value.Children(); children.Next(); {
				keyValue(e.path, children.Node())
			}
		}
	}
	for parser.NextExpression() {
		node := parser.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, at := keyPath(node, place)
			header = path
			entries = append(entries, entry{path: path, place: at, value: at, table: true})
		case unstable.KeyValue:
			keyValue(header, node)
		}
	}
	return entries, parser.Error()
}

// keyPath gives the parts of a dotted key and where it begins.
func keyPath(node *unstable.Node, place func(unstable.Range) manifest.Place) (path []string, at manifest.Place) {
	for it := node.Key(); it.Next(); {
		if path == nil {
			at = place(it.Node().Raw)
		}
		path = append(path, string(it.Node().Data))
	}
	return path, at
}

// lookup gives the value at a path; of an array of tables the array.
func lookup(document map[string]any, path []string) any {
	var v any = document
	for _, part := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return v
		}
		v = table[part]
	}
	return v
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}
