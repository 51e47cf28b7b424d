package api

import (
	"context"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Why is the whole chain around an event or an execution: where the event comes from, what each rule
// made of it, and what ran.
type Why struct {
	// Event is null where nobody's event led to the execution: a person or a program asked for it.
	Event   *EventDetail `json:"event"`
	Trigger *Origin      `json:"trigger"`
	// Execution is the number of the execution that was asked about; null: an event was.
	Execution *int64 `json:"execution"`
	// Executions are what followed from the event, or the one that was asked about.
	Executions []WhyExecution `json:"executions"`
	// MoreExecutions are those that are left out.
	MoreExecutions int `json:"more_executions,omitempty"`
	// Replays are later events that repeat this one.
	Replays []int64 `json:"replays"`
}

// Origin is a component, its file and the revision of its pack that it runs from.
type Origin struct {
	Ref    string `json:"ref"`
	File   string `json:"file"`
	Digest string `json:"digest"`
}

// WhyExecution is an execution with its attempts and the ends of its outputs.
type WhyExecution struct {
	ExecutionDetail
	// ActionFile is the action's manifest as it is in force; the revision that ran is in revision.
	ActionFile string `json:"action_file"`
}

const (
	// maxChain bounds the executions of a chain.
	maxChain = 50
	// outputTail is how much of each output's end a chain tells, in bytes.
	outputTail = 2 << 10
)

func (s *Server) whyEvent(ctx context.Context, in *byID) (*Why, error) { return s.why(ctx, in.ID, 0) }

func (s *Server) whyExecution(ctx context.Context, in *byID) (*Why, error) {
	detail, err := s.executionDetail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if detail.EventID != nil {
		why, err := s.why(ctx, *detail.EventID, in.ID)
		if !IsNotFound(err) {
			return why, err
		}
		// Retention keeps executions for longer than events.
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	return &Why{Execution: &in.ID, Executions: []WhyExecution{whyExecution(catalog, detail)}, Replays: []int64{}}, nil
}

// why tells the chain of an event; with an execution, only that one of its executions.
func (s *Server) why(ctx context.Context, eventID, executionID int64) (*Why, error) {
	event, err := s.eventDetail(ctx, eventID)
	if err != nil {
		return nil, err
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	why := &Why{Event: event, Trigger: originOf(catalog, manifest.KindTrigger, event.Trigger), Executions: []WhyExecution{}}
	ids := []int64{executionID}
	if executionID != 0 {
		why.Execution = &executionID
	} else {
		ids = nil
		for _, e := range event.Enforcements {
			ids = append(ids, e.Executions...)
		}
	}
	for n, id := range ids {
		if n == maxChain {
			why.MoreExecutions = len(ids) - maxChain
			break
		}
		detail, err := s.executionDetail(ctx, id)
		switch {
		case IsNotFound(err):
			continue // retention was faster
		case err != nil:
			return nil, err
		}
		why.Executions = append(why.Executions, whyExecution(catalog, detail))
	}
	replays, err := s.opts.Store.Replays(ctx, eventID)
	why.Replays = orEmpty(replays)
	return why, err
}

func whyExecution(catalog *store.Catalog, detail *ExecutionDetail) WhyExecution {
	e := WhyExecution{ExecutionDetail: *detail}
	e.Stdout, e.Stderr = tail(e.Stdout, outputTail), tail(e.Stderr, outputTail)
	if origin := originOf(catalog, manifest.KindAction, e.Action); origin != nil {
		e.ActionFile = origin.File
	}
	return e
}

// originOf gives a component's file; nil: there is no such component any more.
func originOf(catalog *store.Catalog, kind manifest.Kind, ref string) *Origin {
	r := catalog.Records(kind)[ref]
	if r == nil {
		return nil
	}
	return &Origin{Ref: ref, File: r.Pack + "/" + r.File, Digest: r.TreeDigest}
}

// tail gives the end of a text, from the beginning of a line where there is one.
func tail(text string, most int) string {
	if len(text) <= most {
		return text
	}
	text = text[len(text)-most:]
	for i := range text {
		if text[i] == '\n' && i+1 < len(text) {
			return "…\n" + text[i+1:]
		}
	}
	return "…" + text
}
