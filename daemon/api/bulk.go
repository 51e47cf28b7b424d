package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// MaxBatch is how many executions one request queues at most, and one question about their ends
	// names.
	MaxBatch = 1000

	// bulkPage is how many executions one statement takes on where many are cancelled or repeated.
	// Those that are repeated are read with their parameters, which may be large.
	bulkPage  = 1000
	rerunPage = 50

	// maxRerun bounds what one request repeats: more is more likely a mistake than a wish.
	maxRerun = 100_000

	// maxReasons is how many refusals of one request are told.
	maxReasons = 10

	// endsFirst and endsLast are how often it is looked for ends that no notice told.
	endsFirst = 50 * time.Millisecond
	endsLast  = time.Second

	// clockSlack is how far the daemon's clock may be from the database's when it says since when
	// executions were asked for: a day of history more to look through.
	clockSlack = 24 * time.Hour
)

// RetryPolicy says when an execution is tried again.
type RetryPolicy struct {
	MaxAttempts  int     `json:"max_attempts" minimum:"1" maximum:"1000"`
	DelaySeconds float64 `json:"delay_seconds,omitempty" minimum:"0" maximum:"31536000"`
	// Backoff is constant or exponential. Defaults to constant.
	Backoff         string   `json:"backoff,omitempty" enum:"constant,exponential"`
	MaxDelaySeconds float64  `json:"max_delay_seconds,omitempty" minimum:"0" maximum:"31536000"`
	On              []string `json:"on,omitempty" doc:"failed, timed_out and lost. Defaults to failed and timed_out."`
	ExitCodes       []int    `json:"exit_codes,omitempty" doc:"Of those that failed only these. Defaults to all."`
}

// retry is the policy as manifests have it.
func (p *RetryPolicy) retry() *manifest.Retry {
	if p == nil {
		return nil
	}
	duration := func(seconds float64) manifest.Duration {
		return manifest.Duration(time.Duration(seconds * float64(time.Second)))
	}
	return &manifest.Retry{
		MaxAttempts: p.MaxAttempts, Delay: duration(p.DelaySeconds), Backoff: p.Backoff,
		MaxDelay: duration(p.MaxDelaySeconds), On: p.On, ExitCodes: p.ExitCodes,
	}
}

// Batch is what queueing many gave: one answer for each, in order.
type Batch struct {
	// AskedAt goes into the questions about their ends.
	AskedAt time.Time     `json:"asked_at"`
	Answers []BatchAnswer `json:"executions"`
}

// BatchAnswer is the id of a queued execution, or why it was refused.
type BatchAnswer struct {
	ID    int64  `json:"id,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// batchRequest is the input of what queues many.
type batchRequest struct {
	Idempotent
	Body struct {
		Executions []executionBody `json:"executions" minItems:"1" maxItems:"1000" doc:"Each is judged alone: those that do not fit are refused, the others queued together"`
	}
}

func (s *Server) createExecutions(ctx context.Context, in *batchRequest) (*Batch, error) {
	once, err := in.once(ctx, "create-executions", in.Body)
	if err != nil {
		return nil, err
	}
	if former, err := s.former(ctx, once); err != nil || former != nil {
		return batchBefore(former, err)
	}
	batch := &Batch{AskedAt: time.Now(), Answers: make([]BatchAnswer, len(in.Body.Executions))}
	var fit []store.NewExecution
	var places []int
	for i := range in.Body.Executions {
		n, err := s.newExecution(ctx, &in.Body.Executions[i])
		if err == nil {
			fit, places = append(fit, *n), append(places, i)
			continue
		}
		problem, ok := errors.AsType[*Error](err)
		if !ok {
			return nil, err // it is not the execution's fault
		}
		batch.Answers[i].Error = problem
	}
	audit := batchAudit(s.auditOf(ctx, "run action", ""), fit)
	fill := func(ids []int64) {
		for i, id := range ids {
			batch.Answers[places[i]].ID = id
		}
	}
	var ids []int64
	if once == nil {
		ids, err = s.opts.Store.EnqueueFor(ctx, audit, fit)
	} else {
		once.Answer = func(ids []int64) (json.RawMessage, error) {
			fill(ids)
			return json.Marshal(batch)
		}
		var former json.RawMessage
		if ids, former, err = s.opts.Store.EnqueueOnce(ctx, *once, audit, fit); former != nil {
			return batchBefore(former, err)
		}
		err = keyMisused(err)
	}
	if err != nil {
		if problem, ok := errors.AsType[*Error](err); ok {
			return nil, problem
		}
		return nil, fmt.Errorf("cannot queue %d executions: %w", len(fit), err)
	}
	fill(ids)
	s.log.Info("executions requested", "count", len(ids), "by", caller(ctx))
	return batch, nil
}

// batchBefore is the answer to the first request of a key.
func batchBefore(former json.RawMessage, err error) (*Batch, error) {
	if err != nil {
		return nil, err
	}
	batch := new(Batch)
	if err := json.Unmarshal(former, batch); err != nil {
		return nil, fmt.Errorf("cannot read the answer to the first request: %v", err)
	}
	return batch, nil
}

// batchAudit tells the audit which actions were asked for.
func batchAudit(audit *store.NewAudit, executions []store.NewExecution) *store.NewAudit {
	counts := map[string]int{}
	for _, e := range executions {
		counts[e.Action]++
	}
	if len(executions) == 1 {
		audit.After = actionJSON(executions[0].Action)
	} else if text, err := json.Marshal(map[string]any{"actions": counts}); err == nil {
		audit.After = text
	}
	return audit
}

// Ends are the executions that have ended, of those asked about.
type Ends struct {
	Ends []store.End `json:"ends"`
}

// endsRequest is the input of the question which executions have ended.
type endsRequest struct {
	Body struct {
		IDs         []int64   `json:"ids" minItems:"1" maxItems:"1000"`
		Since       time.Time `json:"since" doc:"When the first of them was asked for: asked_at of the batch"`
		WaitSeconds float64   `json:"wait_seconds,omitempty" minimum:"0" maximum:"60" doc:"How long to wait until one has ended. Defaults to not at all."`
	}
}

func (s *Server) executionEnds(ctx context.Context, in *endsRequest) (*Ends, error) {
	finished, unsubscribe := s.opts.Notices.Subscribe(store.ChannelFinished)
	defer unsubscribe()
	s.log.Debug("waiting for executions to end", "request_id", requestID(ctx), "executions", len(in.Body.IDs))
	ends, err := awaitEnds(ctx, time.Duration(in.Body.WaitSeconds*float64(time.Second)), finished, s.stopping, func() ([]store.End, error) {
		return s.opts.Store.Ends(ctx, in.Body.IDs, in.Body.Since.Add(-clockSlack))
	})
	if err != nil {
		return nil, err
	}
	return &Ends{Ends: orEmpty(ends)}, nil
}

// awaitEnds looks until it sees an end, or for so long.
func awaitEnds(ctx context.Context, most time.Duration, finished <-chan string, stopping <-chan struct{}, ends func() ([]store.End, error)) ([]store.End, error) {
	wait := time.NewTimer(most)
	defer wait.Stop()
	stopped := false
	for pause := endsFirst; ; pause = min(2*pause, endsLast) {
		found, err := ends()
		switch {
		case ctx.Err() != nil:
			return nil, errStopping()
		case err != nil || len(found) > 0 || most <= 0:
			return found, err
		case stopped:
			return nil, errStopping()
		}
		look := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			return nil, errStopping()
		case <-stopping:
			stopped = true // what ran here has ended by now: that is seen by a last look
		case <-wait.C:
			return nil, nil
		case <-finished:
		case <-look.C:
		}
		look.Stop()
	}
}

// errStopping is for who waits when the daemon stops: to be asked again.
func errStopping() *Error {
	return newError(CodeUnavailable, "cannot wait for executions to end: the daemon stops, or the caller has gone", "")
}

// BulkChoice names many executions: by ids, or by filters, all of which have to hold.
type BulkChoice struct {
	IDs    []int64  `json:"ids,omitempty" maxItems:"1000"`
	Action string   `json:"action_ref,omitempty"`
	Rule   string   `json:"rule_ref,omitempty"`
	Pack   string   `json:"pack_ref,omitempty"`
	Status []string `json:"status,omitempty"`
	Event  int64    `json:"event_id,omitempty" minimum:"0"`
	Since  string   `json:"since,omitempty" doc:"90s, 1h or 7d before now, or an RFC 3339 time"`
	Before int64    `json:"before,omitempty" minimum:"0" doc:"Ids below this one"`
	All    bool     `json:"all,omitempty" doc:"Has to be said where nothing else narrows it"`
	DryRun bool     `json:"dry_run,omitempty" doc:"Only count them"`
}

// Bulk is what was done to many.
type Bulk struct {
	// Count is how many were cancelled, are being stopped or were queued again; with dry_run, how many
	// would be.
	Count int `json:"count"`
	// Before, sent along with the same filter, names the same executions and none that came later.
	Before int64 `json:"before,omitempty"`
	// Refused are those that could not be repeated; Reasons tell why, of some.
	Refused int      `json:"refused,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
	// IDs are those of the new executions.
	IDs []int64 `json:"ids,omitempty"`
}

// choose gives the executions that are named, newest first and at most that many, of those in one of the
// statuses that the request is possible for.
func (s *Server) choose(ctx context.Context, b *BulkChoice, possible []store.Status, most int, each func([]int64) error) error {
	filter, err := executionFilter(b.Action, b.Rule, onlyPack(ctx, b.Pack), b.Since, b.Event, b.Status)
	if err != nil {
		return err
	}
	if len(b.IDs) > 0 && visitorOf(ctx).pack != "" {
		return newError(CodeForbidden, "this token is for pack "+visitorOf(ctx).pack+" alone", "name executions by a filter, or one by one")
	}
	if len(b.IDs) > 0 {
		return each(b.IDs)
	}
	if !b.All && b.Action == "" && b.Rule == "" && b.Pack == "" && b.Since == "" && b.Event == 0 && len(b.Status) == 0 {
		return newError(CodeInvalidRequest, "cannot take all executions there are without a word", "narrow them by a filter, or say all")
	}
	for _, status := range filter.Status {
		if !slices.Contains(possible, status) {
			return newError(CodeInvalidRequest, fmt.Sprintf("cannot do this to executions in status %s: expected %s", status, anyOf(possible)), "")
		}
	}
	if len(filter.Status) == 0 {
		filter.Status = possible
	}
	filter.Before, filter.Limit = b.Before, bulkPage
	for total := 0; ; {
		ids, err := s.opts.Store.ChooseExecutions(ctx, filter)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return nil
		}
		if total += len(ids); most > 0 && total > most {
			return newError(CodeInvalidRequest, fmt.Sprintf("cannot take more than %d executions at once", most), "narrow them by a filter, such as --since")
		}
		if err := each(ids); err != nil || len(ids) < bulkPage {
			return err
		}
		filter.Before = ids[len(ids)-1]
	}
}

func anyOf(statuses []store.Status) string {
	names := make([]string, len(statuses))
	for i, status := range statuses {
		names[i] = string(status)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// bulkRequest is the input of a cancel of many.
type bulkRequest struct{ Body BulkChoice }

func (s *Server) cancelExecutions(ctx context.Context, in *bulkRequest) (*Bulk, error) {
	done := &Bulk{}
	var refused error // of one of them; the others are not to wait for that
	waiting := slices.DeleteFunc(slices.Clone(allStatuses), store.Status.Final)
	err := s.choose(ctx, &in.Body, waiting, 0, func(ids []int64) error {
		done.note(ids)
		if in.Body.DryRun {
			done.Count += len(ids)
			return nil
		}
		found, err := s.opts.Store.CancelAll(ctx, ids, caller(ctx))
		done.Count += len(found)
		if err != nil && len(found) > 0 {
			refused, err = cmp.Or(refused, err), nil
		}
		return err
	})
	if err = cmp.Or(err, refused); err != nil {
		return nil, err
	}
	if !in.Body.DryRun && done.Count > 0 {
		s.log.Info("executions cancel asked for", "count", done.Count, "by", caller(ctx))
	}
	return done, nil
}

// note remembers where the executions of the first page begin.
func (b *Bulk) note(ids []int64) {
	if b.Before == 0 {
		b.Before = slices.Max(ids) + 1
	}
}

// The ways to repeat an execution.
const (
	// AsNow runs what is in force now.
	AsNow = "now"
	// AsThen runs the very revision, manifest and files, that the original ran from.
	AsThen = "then"
)

// rerunRequest is the input of a rerun of one.
type rerunRequest struct {
	ID   int64 `path:"id" minimum:"1"`
	Body struct {
		As string `json:"as,omitempty" enum:"now,then" doc:"now: the action as it is in force; then: as it was. Defaults to now."`
	}
}

func (s *Server) rerunExecution(ctx context.Context, in *rerunRequest) (*ExecutionDetail, error) {
	if err := s.mayTouchExecution(ctx, in.ID); err != nil {
		return nil, err
	}
	sources, err := s.opts.Store.Reruns(ctx, []int64{in.ID})
	if err != nil {
		return nil, err
	}
	if len(sources) == 0 {
		return nil, numbered("execution", in.ID, store.ErrNotFound)
	}
	r := &rerunner{server: s, asThen: in.Body.As == AsThen}
	if err := r.prepare(ctx, &sources[0]); err != nil {
		return nil, err
	}
	audit := s.auditOf(ctx, "rerun execution", "")
	audit.Detail = fmt.Appendf(nil, `{"rerun_of": %d}`, in.ID)
	return s.queueOne(ctx, &sources[0].Again, audit)
}

// rerunsRequest is the input of a rerun of many.
type rerunsRequest struct {
	Body struct {
		BulkChoice
		As string `json:"as,omitempty" enum:"now,then" doc:"now: the actions as they are in force; then: as they were. Defaults to now."`
	}
}

func (s *Server) rerunExecutions(ctx context.Context, in *rerunsRequest) (*Bulk, error) {
	done := &Bulk{}
	final := slices.DeleteFunc(slices.Clone(allStatuses), func(status store.Status) bool { return !status.Final() })
	var all []int64
	err := s.choose(ctx, &in.Body.BulkChoice, final, maxRerun, func(ids []int64) error {
		done.note(ids)
		all = append(all, ids...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if in.Body.DryRun {
		done.Count = len(all)
		return done, nil
	}
	// They are queued in the order in which they were first.
	slices.Sort(all)
	r := &rerunner{server: s, asThen: in.Body.As == AsThen}
	for ids := range slices.Chunk(all, rerunPage) {
		if err := r.page(ctx, ids, done); err != nil {
			return nil, err
		}
	}
	s.log.Info("executions repeated", "count", done.Count, "refused", done.Refused, "as", in.Body.As, "by", caller(ctx))
	return done, nil
}

// rerunner repeats executions.
type rerunner struct {
	server *Server
	asThen bool
	former map[formerKey]formerAction // what was found of older revisions
}

type formerKey struct {
	revision int64
	action   string
}

type formerAction struct {
	spec   *manifest.Action
	former *store.Former
	err    error
}

func (r *rerunner) page(ctx context.Context, ids []int64, done *Bulk) error {
	sources, err := r.server.opts.Store.Reruns(ctx, ids)
	if err != nil {
		return err
	}
	var again []store.NewExecution
	for i := range sources {
		err := r.prepare(ctx, &sources[i])
		problem, refused := errors.AsType[*Error](err)
		switch {
		case err == nil:
			again = append(again, sources[i].Again)
		case !refused:
			return err
		default:
			if done.Refused++; len(done.Reasons) < maxReasons {
				done.Reasons = append(done.Reasons, fmt.Sprintf("execution %d: %v", sources[i].ID, problem))
			}
		}
	}
	queued, err := r.server.opts.Store.EnqueueFor(ctx, batchAudit(r.server.auditOf(ctx, "rerun execution", ""), again), again)
	if err != nil {
		return fmt.Errorf("cannot queue %d executions again, after %d were: %w", len(again), done.Count, err)
	}
	done.Count += len(queued)
	done.IDs = append(done.IDs, queued...)
	return nil
}

// prepare completes what is to be queued again, or tells why it cannot be.
func (r *rerunner) prepare(ctx context.Context, source *store.Rerun) error {
	if !source.Status.Final() {
		return newError(CodeConflict, fmt.Sprintf("cannot rerun execution %d: it has not ended (%s)", source.ID, source.Status), "")
	}
	source.Again.RequestedBy = caller(ctx)
	catalog, err := r.server.catalog(ctx)
	if err != nil {
		return err
	}
	if !r.asThen {
		return r.asItIs(catalog, source)
	}
	return r.asItWas(ctx, catalog, source)
}

func (r *rerunner) asItIs(catalog *store.Catalog, source *store.Rerun) error {
	record := catalog.Actions[source.Again.Action]
	if record == nil {
		return newError(CodeConflict, fmt.Sprintf("cannot rerun execution %d: action %s is not known any more", source.ID, source.Again.Action), "")
	}
	if !record.Enabled {
		return disabled(catalog, record)
	}
	return fitsAgain(source, record.Spec.(*manifest.Action), "--as-then runs what it ran then")
}

// asItWas pins what is queued to the revision of that day. An action that has vanished since runs all the
// same; one that an operator has disabled does not.
func (r *rerunner) asItWas(ctx context.Context, catalog *store.Catalog, source *store.Rerun) error {
	const hint = "--as-now runs what is in force"
	action := source.Again.Action
	switch {
	case source.Revision == "":
		return newError(CodeConflict, fmt.Sprintf("cannot rerun execution %d as then: it never ran", source.ID), hint)
	case source.RevisionID == 0:
		return newError(CodeConflict, fmt.Sprintf("cannot rerun execution %d as then: revision %.12s that it ran from is not kept any more (retention.revisions)",
			source.ID, source.Revision), hint)
	}
	if record := catalog.Actions[action]; record != nil {
		pack := catalog.Packs[record.Pack]
		if record.DisabledBy != "" || pack != nil && pack.DisabledBy != "" {
			return disabled(catalog, record)
		}
	}
	key := formerKey{source.RevisionID, action}
	found, ok := r.former[key]
	if !ok {
		found.spec, found.err = reconcile.FormerAction(ctx, r.server.opts.Store, source.RevisionID, action)
		if store.IsTransient(found.err) {
			return found.err
		}
		if found.err == nil {
			found.former = &store.Former{RevisionID: source.RevisionID}
			found.former.Manifest, found.err = manifest.Encode(found.spec)
		}
		if r.former == nil {
			r.former = map[formerKey]formerAction{}
		}
		r.former[key] = found
	}
	if found.err != nil {
		return newError(CodeConflict, fmt.Sprintf("cannot rerun execution %d as then: %v", source.ID, found.err), hint)
	}
	source.Again.Former = found.former
	return fitsAgain(source, found.spec, "")
}

// fitsAgain checks the parameters against a schema that may be another than when they were first given.
func fitsAgain(source *store.Rerun, spec *manifest.Action, hint string) error {
	value, err := decode(source.Again.Parameters)
	if err != nil {
		return fmt.Errorf("cannot read the stored parameters of execution %d: %w", source.ID, err)
	}
	parameters, _ := value.(map[string]any)
	if misfits := spec.Parameters.ValidateUnresolved(parameters, source.Again.Secrets); len(misfits) > 0 {
		return newError(CodeInvalidParameters, fmt.Sprintf("the parameters of execution %d do not fit action %s any more", source.ID, spec.Ref), hint, details(misfits)...)
	}
	return nil
}
