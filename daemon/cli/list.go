package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

// watchPause is how long --watch waits between two looks: a person sees no difference to less, and a
// daemon that is looked at by many does.
const watchPause = time.Second

// list is a command that lists things of the daemon's: what it asks, and how it prints each.
type list[T any] struct {
	noun    string // "execution": for the note that there are none
	columns []column[T]
	// name tells an item from all others: its ref or its number. It is what -o name prints.
	name func(*T) string
	// newestFirst lists are printed the other way round by --watch: what is new comes at the end.
	newestFirst bool
	// ask gets the items, as the command's flags narrow them.
	ask func(*api.Client, context.Context) ([]T, error)
	// follow is told by the daemon what comes and changes; nil: --watch asks again and again.
	follow func(*api.Client, context.Context, api.Follow[T]) error
	// changes says that what is listed changes only with what is in force: --watch is told when it does.
	changes bool
	// command has the filters; listCommand sets it.
	command *cobra.Command
}

// empty says that there is nothing to list, and of each filter that names nothing known that this is why.
func (l *list[T]) empty(ctx context.Context, c *command, client *api.Client, yet string) {
	c.note("no %ss%s", l.noun, yet)
	if l.command != nil {
		c.tellUnknown(ctx, l.command, client)
	}
}

// narrowed is a question with the filter that the command's flags fill in.
func narrowed[T, F any](question func(*api.Client, context.Context, F) ([]T, error), filter *F) func(*api.Client, context.Context) ([]T, error) {
	return func(client *api.Client, ctx context.Context) ([]T, error) { return question(client, ctx, *filter) }
}

// column is one column of a table of things.
type column[T any] struct {
	title string
	cell  func(now time.Time, item *T) cell
	// wide columns are printed with -o wide only.
	wide bool
	// moving columns change by themselves, such as an age: --watch does not print a row again for them.
	moving bool
}

// textColumn is a column of plain text.
func textColumn[T any](title string, text func(*T) string) column[T] {
	return column[T]{title: title, cell: func(_ time.Time, item *T) cell { return plain(text(item)) }}
}

// numberColumn is a column of numbers.
func numberColumn[T any, N int | int64](title string, number func(*T) N) column[T] {
	return textColumn(title, func(item *T) string { return fmt.Sprint(number(item)) })
}

// stateColumn is a column of states, painted so that one can scan it.
func stateColumn[T any](title string, state func(*T) string) column[T] {
	return column[T]{title: title, cell: func(_ time.Time, item *T) cell { return status(state(item)) }}
}

// ageColumn is a column that tells how long ago something was; nil: it never was.
func ageColumn[T any](title string, at func(*T) *time.Time) column[T] {
	return column[T]{
		title: title, moving: true,
		cell: func(now time.Time, item *T) cell { return plain(agePtr(now, at(item))) },
	}
}

// onlyWide marks a column as one for -o wide.
func (col column[T]) onlyWide() column[T] {
	col.wide = true
	return col
}

// moves marks a column as one that changes by itself.
func (col column[T]) moves() column[T] {
	col.moving = true
	return col
}

// listing is the annotation of commands that print lists, which have more ways to print.
const listing = "attune.list"

// listCommand completes a command that lists: its flags, its ways to print, --watch.
func listCommand[T any](c *command, cmd *cobra.Command, l list[T]) *cobra.Command {
	var watch bool
	cmd.Annotations = map[string]string{listing: ""}
	if cmd.Use == "" {
		cmd.Use, cmd.Aliases = "list", []string{"ls"}
	}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l.command = cmd
		client, err := c.client()
		if err != nil {
			return err
		}
		defer client.Close()
		if watch {
			return l.watch(cmd.Context(), c, client)
		}
		items, err := l.ask(client, cmd.Context())
		if err != nil {
			return err
		}
		if len(items) == 0 {
			l.empty(cmd.Context(), c, client, "")
		}
		if c.output == outputName {
			l.names(c.sys.Stdout, items)
			return nil
		}
		return c.print(items, func(w io.Writer) { printTable(c, w, l.columns, items, time.Now()) })
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and print what comes and what changes")
	return cmd
}

func (l *list[T]) names(w io.Writer, items []T) {
	for i := range items {
		fmt.Fprintln(w, l.name(&items[i]))
	}
}

// printTable prints things as a table, as wide as the command line asks for.
func printTable[T any](c *command, w io.Writer, columns []column[T], items []T, now time.Time) {
	columns = shown(c, columns)
	c.table(w, titles(columns), rows(columns, items, now))
}

func shown[T any](c *command, columns []column[T]) []column[T] {
	var chosen []column[T]
	for _, col := range columns {
		if !col.wide || c.output != outputTable {
			chosen = append(chosen, col)
		}
	}
	return chosen
}

func titles[T any](columns []column[T]) []string {
	head := make([]string, len(columns))
	for i, col := range columns {
		head[i] = col.title
	}
	return head
}

func rows[T any](columns []column[T], items []T, now time.Time) [][]cell {
	list := make([][]cell, len(items))
	for i := range items {
		list[i] = make([]cell, len(columns))
		for k, col := range columns {
			list[i][k] = col.cell(now, &items[i])
		}
	}
	return list
}

// watch prints the list, and then again and again what is new in it or has changed: rows below the
// first ones, JSON as a line for each, YAML as a document for each. A daemon that goes away meanwhile is
// waited for: it may only be starting anew.
func (l *list[T]) watch(ctx context.Context, c *command, client *api.Client) error {
	columns := shown(c, l.columns)
	w := &watcher[T]{
		command: c, list: l, columns: columns, seen: map[string]string{},
		table: tableWriter{command: c, head: titles(columns)},
	}
	switch {
	case l.follow != nil:
		w.stays = true
		return quietly(ctx, l.followed(ctx, w, client))
	case l.changes:
		// A token of one pack may not follow what concerns all of them.
		if err := l.listedAnew(ctx, w, client); !api.IsForbidden(err) {
			return quietly(ctx, err)
		}
	}
	away := false
	for first := true; ; first = false {
		items, err := l.ask(client, ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			away = false
			if first && len(items) == 0 {
				l.empty(ctx, c, client, " yet")
			}
			if err := w.print(items); err != nil {
				return err
			}
		case first || api.IsRefusal(err) && !api.IsUnavailable(err):
			return err
		case !away:
			away = true
			c.note("%v; waiting for it", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

// quietly gives no error where it was the user who ended it.
func quietly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ready lists what there is. It is called when what comes later will be told.
func (l *list[T]) ready(ctx context.Context, w *watcher[T], client *api.Client) error {
	items, err := l.ask(client, ctx)
	if err != nil {
		return err
	}
	if len(items) == 0 && len(w.seen) == 0 {
		l.empty(ctx, w.command, client, " yet")
	}
	return w.print(items)
}

// followed prints each thing that the daemon tells.
func (l *list[T]) followed(ctx context.Context, w *watcher[T], client *api.Client) error {
	return l.follow(client, ctx, api.Follow[T]{
		Ready: func() error { return l.ready(ctx, w, client) },
		Item:  func(item *T) error { return w.print([]T{*item}) },
		Gap: func(gap *api.Gap) error {
			w.note("not all is told: %s", gap.Reason)
			return l.ready(ctx, w, client)
		},
		Away: w.away,
	})
}

// listedAnew prints what has changed whenever something in force has.
func (l *list[T]) listedAnew(ctx context.Context, w *watcher[T], client *api.Client) error {
	again := func() error { return l.ready(ctx, w, client) }
	return client.StreamReconcile(ctx, api.Follow[api.ReconcileChange]{
		Ready: again,
		Item:  func(*api.ReconcileChange) error { return again() },
		Gap:   func(*api.Gap) error { return again() },
		Away:  w.away,
	})
}

// away tells that the daemon has gone.
func (w *watcher[T]) away(err error) error {
	w.note("%v; waiting for it", err)
	return nil
}

// watcher is one run of --watch.
type watcher[T any] struct {
	*command
	list    *list[T]
	columns []column[T]
	table   tableWriter
	seen    map[string]string // what each item looked like, by name
	stays   bool              // what is not among the items of one print stays as it is
}

// seenMost bounds what is remembered of what was told.
const seenMost = 10_000

// print prints the items that were not seen as they are now.
func (w *watcher[T]) print(items []T) error {
	if w.list.newestFirst {
		slices.Reverse(items)
	}
	now := time.Now()
	seen := make(map[string]string, len(items))
	var changed []T
	for i := range items {
		name := w.list.name(&items[i])
		seen[name] = w.look(&items[i], now)
		if before, ok := w.seen[name]; !ok || before != seen[name] {
			changed = append(changed, items[i])
		}
	}
	if w.stays && len(w.seen) < seenMost {
		maps.Copy(w.seen, seen)
	} else {
		w.seen = seen
	}
	switch w.output {
	case outputName:
		w.list.names(w.sys.Stdout, changed)
		return nil
	case outputJSON:
		enc := json.NewEncoder(w.sys.Stdout)
		enc.SetEscapeHTML(false)
		for i := range changed {
			if err := enc.Encode(changed[i]); err != nil {
				return err
			}
		}
		return nil
	case outputYAML:
		for i := range changed {
			text, err := manifest.FormatYAML(changed[i])
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w.sys.Stdout, "---\n%s", text); err != nil {
				return err
			}
		}
		return nil
	}
	w.table.write(w.sys.Stdout, rows(w.columns, changed, now))
	return nil
}

// look is an item without what changes by itself.
func (w *watcher[T]) look(item *T, now time.Time) string {
	var look strings.Builder
	for _, col := range w.columns {
		if !col.moving {
			look.WriteString(col.cell(now, item).text)
			look.WriteByte(0)
		}
	}
	return look.String()
}

// sinceFlag, beforeFlag and limitFlag are the filters of lists of what happened.
func sinceFlag(cmd *cobra.Command, since *string) {
	cmd.Flags().StringVar(since, "since", "", "only since then: 90s, 1h, 7d, or a time such as 2026-01-31T09:00:00Z")
}

func beforeFlag(cmd *cobra.Command, before *int64) {
	cmd.Flags().Int64Var(before, "before", 0, "only with an id below this one")
}

func limitFlag(cmd *cobra.Command, limit *int, otherwise int) {
	cmd.Flags().IntVar(limit, "limit", otherwise, "how many at most")
}

// componentFlags are the filters that all lists of components share.
func componentFlags(cmd *cobra.Command, filter *api.ComponentFilter) {
	cmd.Flags().BoolVar(&filter.All, "all", false, "list the disabled and the removed too")
	refFlag(cmd, &filter.Pack, manifest.KindPack, "pack", "only of this pack")
}

// refKind is the annotation of a filter that names a thing: of which kind.
const refKind = "attune.kind"

// refFlag is a filter that names a thing.
func refFlag(cmd *cobra.Command, ref *string, kind manifest.Kind, name, usage string) {
	cmd.Flags().StringVar(ref, name, "", usage)
	cmd.Flags().Lookup(name).Annotations = map[string][]string{refKind: {string(kind)}}
}

// tellUnknown warns of each filter that names what nobody knows, with what was probably meant. It is for lists that
// are empty: what is gone may have left history, which is listed.
func (c *command) tellUnknown(ctx context.Context, cmd *cobra.Command, client *api.Client) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		kind := f.Annotations[refKind]
		if len(kind) == 0 {
			return
		}
		ref := f.Value.String()
		var err error
		switch manifest.Kind(kind[0]) {
		case manifest.KindPack:
			_, err = client.Pack(ctx, ref)
		case manifest.KindAction:
			_, err = client.Action(ctx, ref)
		case manifest.KindTrigger:
			_, err = client.Trigger(ctx, ref)
		case manifest.KindRule:
			_, err = client.Rule(ctx, ref)
		case manifest.KindSensor:
			if strings.Contains(ref, ".") { // others are no sensors: api
				_, err = client.Sensor(ctx, ref)
			}
		}
		// Any other error says nothing about the name: who asks may not know, say.
		if problem, ok := errors.AsType[*api.Error](err); ok && problem.Code == api.CodeNotFound {
			c.note("%s %s", c.paint(styleWarn, "warning:"), strings.TrimSuffix(problem.Detail+"; "+problem.Hint, "; "))
		}
	})
}
