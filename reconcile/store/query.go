package store

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
)

//go:embed queries/*.sql
var queryFiles embed.FS

const (
	queryMark = "-- name: "
	// kindMark stands for the table of each component kind.
	kindMark = "KIND"
)

// queries are the statements by name.
type queries map[string]string

// loadQueries reads the embedded files. A query whose name ends in KIND becomes four.
func loadQueries() (queries, error) {
	all := queries{}
	files, err := fs.Glob(queryFiles, "queries/*.sql")
	if err != nil {
		return nil, fmt.Errorf("cannot list queries: %w", err)
	}
	for _, file := range files {
		text, err := queryFiles.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read queries: %w", err)
		}
		for name, sql := range splitQueries(string(text)) {
			for name, sql := range eachKind(name, sql) {
				if _, ok := all[name]; ok {
					return nil, fmt.Errorf("cannot load %s: query %s exists twice", file, name)
				}
				all[name] = sql
			}
		}
	}
	return all, nil
}

// splitQueries cuts a file at its name lines. Comment lines are left out: pgx would look for
// arguments in them at each call.
func splitQueries(text string) map[string]string {
	found := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if after, ok := strings.CutPrefix(line, queryMark); ok {
			name = strings.TrimSpace(after)
			continue
		}
		if name == "" || strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		found[name] += line
	}
	return found
}

func eachKind(name, sql string) map[string]string {
	if !strings.HasSuffix(name, kindMark) {
		return map[string]string{name: sql}
	}
	made := map[string]string{}
	for _, kind := range manifest.ComponentKinds() {
		made[ofKind(name, kind)] = strings.ReplaceAll(sql, kindMark, string(kind))
	}
	return made
}

// ofKind is the name of the query for one kind: PutKIND is Put:action.
func ofKind(name string, kind manifest.Kind) string {
	return strings.TrimSuffix(name, kindMark) + ":" + string(kind)
}

// get gives a query that must exist; the names are constants of this package.
func (q queries) get(name string) string {
	sql, ok := q[name]
	if !ok {
		panic("store: no query " + name)
	}
	return sql
}
