package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// executionQuery narrows the list of executions, and pages it.
type executionQuery struct {
	Since  string   `query:"since" doc:"90s, 1h or 7d before now, or an RFC 3339 time"`
	Before int64    `query:"before" minimum:"0" doc:"Ids below this one: the last of the page before"`
	Limit  int      `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Action string   `query:"action"`
	Rule   string   `query:"rule"`
	Pack   string   `query:"pack"`
	Status []string `query:"status,explode"`
	Event  int64    `query:"event" minimum:"0"`
}

func (s *Server) listExecutions(ctx context.Context, q *executionQuery) ([]Execution, error) {
	filter, err := executionFilter(q.Action, q.Rule, onlyPack(ctx, q.Pack), q.Since, q.Event, q.Status)
	if err != nil {
		return nil, err
	}
	filter.Before, filter.Limit = q.Before, q.Limit
	executions, err := s.opts.Store.ListExecutions(ctx, filter)
	if err != nil {
		return nil, err
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	for i := range executions {
		executions[i].Parameters = masked(catalog, &executions[i])
	}
	return orEmpty(executions), nil
}

// executionFilter reads what lists and what is done to many are narrowed by.
func executionFilter(action, rule, pack, since string, event int64, statuses []string) (store.ExecutionFilter, error) {
	filter := store.ExecutionFilter{Action: action, Rule: rule, Pack: pack, EventID: event}
	var err error
	if filter.Since, err = parseSince(since, time.Now()); err != nil {
		return filter, err
	}
	for _, status := range statuses {
		if !slices.Contains(allStatuses, store.Status(status)) {
			return filter, unknownStatus(status)
		}
		filter.Status = append(filter.Status, store.Status(status))
	}
	return filter, nil
}

var allStatuses = []store.Status{
	store.StatusRequested, store.StatusScheduled, store.StatusRunning, store.StatusSucceeded,
	store.StatusFailed, store.StatusTimedOut, store.StatusCancelled, store.StatusLost,
}

func unknownStatus(status string) *Error {
	names := make([]string, len(allStatuses))
	for i, known := range allStatuses {
		names[i] = string(known)
	}
	hint := "expected one of " + strings.Join(names, ", ")
	if near := manifest.Nearest(status, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return newError(CodeInvalidRequest, fmt.Sprintf("cannot use status: found %q", status), hint)
}

func (s *Server) showExecution(ctx context.Context, in *byID) (*ExecutionDetail, error) {
	return s.executionDetail(ctx, in.ID)
}

func (s *Server) executionDetail(ctx context.Context, id int64) (*ExecutionDetail, error) {
	execution, attempts, err := s.opts.Store.Execution(ctx, id)
	if err == nil && !sees(ctx, execution.Pack) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, numbered("execution", id, err)
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	detail := &ExecutionDetail{Execution: *execution, Attempts: orEmpty(attempts)}
	detail.Parameters = masked(catalog, execution)
	return detail, nil
}

// numbered says that there is no such number; other errors pass.
func numbered(kind string, id int64, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return newError(CodeNotFound, fmt.Sprintf("%s %d is not known", kind, id),
			"it never was, or retention has removed it; see `attune "+kind+" list`")
	}
	return err
}

// executionBody is NewExecution as it comes in.
type executionBody struct {
	Action         string            `json:"action_ref" minLength:"1" doc:"The action to run"`
	Parameters     json.RawMessage   `json:"parameters,omitempty" doc:"An object that fits the action's schema. Defaults to {}."`
	Secrets        map[string]string `json:"secrets,omitempty" doc:"JSON pointer into the parameters to name of the secret that belongs there"`
	Priority       *int              `json:"priority,omitempty" minimum:"-1000" maximum:"1000" doc:"Higher goes first. Defaults to the action's."`
	DueAt          *time.Time        `json:"due_at,omitempty" doc:"When to start it. Defaults to now."`
	TimeoutSeconds float64           `json:"timeout_seconds,omitempty" minimum:"0" maximum:"31536000" doc:"Defaults to the action's."`
	TotalSeconds   float64           `json:"timeout_total_seconds,omitempty" minimum:"0" maximum:"31536000" doc:"Bounds all attempts together, pauses included. Defaults to the action's."`
	Retry          *RetryPolicy      `json:"retry,omitempty" doc:"Instead of the action's retry"`
}

// executionRequest is the input of what queues an action.
type executionRequest struct {
	Idempotent
	Body executionBody
}

func (s *Server) createExecution(ctx context.Context, in *executionRequest) (*ExecutionDetail, error) {
	once, err := in.once(ctx, "create-execution", in.Body)
	if err != nil {
		return nil, err
	}
	if former, err := s.former(ctx, once); err != nil || former != nil {
		return s.queuedBefore(ctx, former, err)
	}
	n, err := s.newExecution(ctx, &in.Body)
	if err != nil {
		return nil, err
	}
	audit := s.auditOf(ctx, "run action", "")
	if once == nil {
		return s.queueOne(ctx, n, audit)
	}
	audit.After = actionJSON(n.Action)
	once.Answer = func(ids []int64) (json.RawMessage, error) { return json.Marshal(queuedAnswer{ids}) }
	ids, former, err := s.opts.Store.EnqueueOnce(ctx, *once, audit, []store.NewExecution{*n})
	if err != nil || former != nil {
		return s.queuedBefore(ctx, former, keyMisused(err))
	}
	s.log.Info("execution requested", "execution_id", ids[0], "action", n.Action, "by", n.RequestedBy)
	return s.executionDetail(ctx, ids[0])
}

// queuedAnswer is what a repetition of a request finds out about the first.
type queuedAnswer struct {
	IDs []int64 `json:"ids"`
}

// queuedBefore gives the execution that the first request of a key queued, as it is now.
func (s *Server) queuedBefore(ctx context.Context, former json.RawMessage, err error) (*ExecutionDetail, error) {
	if err != nil {
		return nil, err
	}
	var answer queuedAnswer
	if err := json.Unmarshal(former, &answer); err != nil || len(answer.IDs) != 1 {
		return nil, fmt.Errorf("cannot read the answer to the first request: %v", err)
	}
	return s.executionDetail(ctx, answer.IDs[0])
}

// newExecution checks what is asked for.
func (s *Server) newExecution(ctx context.Context, body *executionBody) (*store.NewExecution, error) {
	if err := mayTouch(ctx, body.Action); err != nil {
		return nil, err
	}
	// Whoever names a secret chooses who is told it.
	if v := visitorOf(ctx); len(body.Secrets) > 0 && (!v.scope.holds(ScopeAdmin) || v.pack != "") {
		return nil, newError(CodeForbidden, "this token may not name secrets: that wants scope admin, for all packs", "let the action's manifest name the secret")
	}
	catalog, r, err := s.find(ctx, manifest.KindAction, body.Action)
	if err != nil {
		return nil, err
	}
	if !r.Enabled {
		return nil, disabled(catalog, r)
	}
	spec := r.Spec.(*manifest.Action)
	n := &store.NewExecution{
		Action: r.Ref, Secrets: body.Secrets, Priority: spec.Priority, DueAt: body.DueAt, Retry: body.Retry.retry(),
		Timeout: time.Duration(body.TimeoutSeconds * float64(time.Second)), RequestedBy: caller(ctx),
		TimeoutTotal: time.Duration(body.TotalSeconds * float64(time.Second)),
	}
	if body.Priority != nil {
		n.Priority = *body.Priority
	}
	n.Parameters, err = parametersFor(spec, body.Parameters, body.Secrets)
	return n, err
}

// queueOne queues one execution and gives it as it then is.
func (s *Server) queueOne(ctx context.Context, n *store.NewExecution, audit *store.NewAudit) (*ExecutionDetail, error) {
	audit.After = actionJSON(n.Action)
	ids, err := s.opts.Store.EnqueueFor(ctx, audit, []store.NewExecution{*n})
	if err != nil {
		return nil, fmt.Errorf("cannot queue action %s: %w", n.Action, err)
	}
	s.log.Info("execution requested", "execution_id", ids[0], "action", n.Action, "by", n.RequestedBy)
	detail, err := s.executionDetail(ctx, ids[0])
	if err != nil {
		// It is queued. An error would have the caller queue it again.
		s.log.Warn("execution queued, but not read back", "execution_id", ids[0], "err", err)
		pack, _, _ := strings.Cut(n.Action, ".")
		queued := store.Execution{
			ID: ids[0], Action: n.Action, Pack: pack, Status: store.StatusRequested, Priority: n.Priority,
			RequestedBy: n.RequestedBy, CreatedAt: time.Now(), DueAt: n.DueAt,
		}
		return &ExecutionDetail{Execution: queued, Attempts: []Attempt{}}, nil
	}
	return detail, nil
}

// parametersFor fills in the defaults and checks what an action is given.
func parametersFor(spec *manifest.Action, given json.RawMessage, secrets map[string]string) (json.RawMessage, error) {
	for pointer, name := range secrets {
		// What looks like an encrypted value may be one, of somebody else's.
		if !secretName.MatchString(name) || !strings.HasPrefix(pointer, "/") {
			return nil, newError(CodeInvalidParameters, fmt.Sprintf("cannot use secrets: found %q for %q", name, pointer),
				"expected a JSON pointer into the parameters, and the name of a secret")
		}
	}
	parameters := map[string]any{}
	if len(given) > 0 && string(given) != "null" {
		value, err := decode(given)
		if err != nil {
			return nil, newError(CodeInvalidParameters, fmt.Sprintf("cannot read the parameters for action %s: %v", spec.Ref, err), "")
		}
		object, ok := value.(map[string]any)
		if !ok {
			return nil, newError(CodeInvalidParameters, fmt.Sprintf("cannot use the parameters for action %s: expected a JSON object", spec.Ref), "")
		}
		parameters = object
	}
	parameters = orObject(spec.Parameters.ApplyDefaults(parameters))
	if misfits := spec.Parameters.ValidateUnresolved(parameters, secrets); len(misfits) > 0 {
		return nil, newError(CodeInvalidParameters, fmt.Sprintf("the parameters do not fit action %s", spec.Ref),
			"see `attune action show "+spec.Ref+"`", details(misfits)...)
	}
	if err := spec.CheckEnvironment(parameters); err != nil {
		return nil, newError(CodeInvalidParameters, fmt.Sprintf("the parameters do not fit action %s: %v", spec.Ref, err), "")
	}
	encoded, err := json.Marshal(parameters)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the parameters: %v", err)
	}
	return encoded, nil
}

// secretName is what a secret may be called; the folder of secrets has files of that name.
var secretName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func (s *Server) cancelExecution(ctx context.Context, in *byID) (*Cancelled, error) {
	if err := s.mayTouchExecution(ctx, in.ID); err != nil {
		return nil, err
	}
	status, err := s.opts.Store.Cancel(ctx, in.ID, caller(ctx))
	if err != nil {
		return nil, numbered("execution", in.ID, err)
	}
	if status.Final() {
		return nil, newError(CodeConflict, fmt.Sprintf("cannot cancel execution %d: it has ended (%s)", in.ID, status), "")
	}
	s.log.Info("execution cancel asked for", "execution_id", in.ID, "by", caller(ctx))
	return &Cancelled{ID: in.ID, Status: status}, nil
}

// mayTouchExecution refuses what is not of the token's pack as if it were not there.
func (s *Server) mayTouchExecution(ctx context.Context, id int64) error {
	if visitorOf(ctx).pack == "" {
		return nil
	}
	_, err := s.executionDetail(ctx, id)
	return err
}
