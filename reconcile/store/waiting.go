package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// countMost is where counts of what goes first end.
const countMost = 1000

type waitingRow struct {
	Status         Status
	DueAt          time.Time
	Early          bool
	Attempt        int
	Node           string
	WaitsFor       string
	PutOff         bool
	InLine         bool
	ConcurrencyKey string
	Places         int
	Holders        []int64
	InFront        int
	BeforeIt       int
	Others         bool
	Running        int
	Nodes          int
	PausedBy       string
}

// waitsFor says why an execution has not begun; nil: it has.
func (s *Store) waitsFor(ctx context.Context, id int64) (*string, error) {
	rows, err := list(ctx, s, "WaitingFor", pgx.StrictNamedArgs{
		"id": id, "most": countMost, "lease_seconds": LeaseDuration.Seconds(),
	}, pgx.RowToStructByPos[waitingRow])
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return new(rows[0].reason()), nil
}

// reason reads on from "waits for".
func (w *waitingRow) reason() string {
	switch {
	case w.Status == StatusRunning:
		return "node " + w.Node + ", which has taken it, to start it"
	case w.InLine:
		return w.line()
	case w.Early && w.PutOff:
		return w.WaitsFor
	case w.Early && w.Attempt > 0:
		return "the time of its next attempt, " + w.DueAt.UTC().Format(time.RFC3339)
	case w.Early:
		return "its time, " + w.DueAt.UTC().Format(time.RFC3339)
	case w.PausedBy != "":
		return "the end of a pause by " + w.PausedBy + " (attune resume)"
	case w.Nodes == 0:
		return "a node: none lives"
	case w.BeforeIt > 0 && w.Others:
		return counted(w.BeforeIt, "execution", countMost) + " of its pack before it, and other packs' turns"
	case w.BeforeIt > 0:
		return counted(w.BeforeIt, "execution", countMost) + " of its pack before it"
	case w.Others:
		return "its pack's turn among those that have something due"
	}
	return "a free worker: " + counted(w.Running, "execution", 0) + " taken, by " + counted(w.Nodes, "node", 0)
}

// line is for one that stands in line for its concurrency.
func (w *waitingRow) line() string {
	var b strings.Builder
	b.WriteString("a place by its action's concurrency")
	if w.ConcurrencyKey != "" {
		b.WriteString(", key " + strconv.Quote(w.ConcurrencyKey))
	}
	if w.Places > 0 {
		fmt.Fprintf(&b, ", which allows %d at once", w.Places)
	}
	if len(w.Holders) > 0 {
		texts := make([]string, len(w.Holders))
		for i, id := range w.Holders {
			texts[i] = strconv.FormatInt(id, 10)
		}
		b.WriteString("; held by execution " + strings.Join(texts, ", "))
	}
	if w.InFront > 0 {
		b.WriteString("; " + counted(w.InFront, "execution", countMost) + " in front of it")
	}
	return b.String()
}

// counted is a number with its noun; from most on it is "most or more".
func counted(n int, noun string, most int) string {
	text := strconv.Itoa(n)
	if most > 0 && n >= most {
		text += " or more"
	}
	if n == 1 {
		return text + " " + noun
	}
	return text + " " + noun + "s"
}
