package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

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

// loadQueries reads the embedded files. A query whose name ends in KIND becomes four; what several have in
// common stands in them by its name, and is no query.
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
	for _, fragment := range []string{"KEEP_ENDED", "ASKED_COLUMNS", "NEW_EXECUTIONS", "NUMBERED_MATCHES", "JUDGED_MATCHES", "UNBEGUN_COLUMNS", "EXECUTION_COLUMNS", "NOTE_ENDED", "TELL_ENDED", "CLAIMED_ACTION", "RULE_TO_PLACE", "RENEWED_LEASE"} {
		text := strings.TrimSpace(all[fragment])
		delete(all, fragment)
		for name := range all {
			all[name] = strings.ReplaceAll(all[name], fragment, text)
		}
	}
	// ClaimNext looks and claims in one statement, for where little waits.
	all["ClaimNext"] = strings.Replace(all["ClaimExecutions"], "@ids::bigint[]", "ARRAY("+strings.TrimRight(all["PeekQueue"], "; \n")+")", 1)
	return all, nil
}

// statement is a query with the names of its arguments in the order of their numbers. Finding them in
// the text takes longer than some of the statements themselves, so it is done once.
type statement struct {
	sql   string
	names []string
}

var argumentPattern = regexp.MustCompile(`@(\w+)`)

func (q queries) statements() (map[string]statement, error) {
	all := map[string]statement{}
	for name, sql := range q {
		named := pgx.NamedArgs{}
		for _, found := range argumentPattern.FindAllStringSubmatch(sql, -1) {
			named[found[1]] = found[1]
		}
		numbered, order, err := named.RewriteQuery(context.Background(), nil, sql, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot number the arguments of query %s: %w", name, err)
		}
		st := statement{sql: numbered}
		for _, value := range order {
			st.names = append(st.names, value.(string))
		}
		all[name] = st
	}
	return all, nil
}

// queue adds a named query to a batch. An argument that is missing, or too much, is a mistake of ours.
func (s *Store) queue(batch *pgx.Batch, name string, args pgx.StrictNamedArgs) *pgx.QueuedQuery {
	st, ok := s.statements[name]
	if !ok || len(args) != len(st.names) {
		panic(fmt.Sprintf("store: query %s has the arguments %v", name, st.names))
	}
	values := make([]any, len(st.names))
	for i, argument := range st.names {
		value, ok := args[argument]
		if !ok {
			panic(fmt.Sprintf("store: query %s has no argument %s", name, argument))
		}
		values[i] = value
	}
	return batch.Queue(st.sql, values...)
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
