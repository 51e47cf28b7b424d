package api

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/attune-io/attune/reconcile/store"
)

// ReconcileChange is a change of what is in force, or of how the loop from files to database is doing.
type ReconcileChange struct {
	Reconcile ReconcileStatus `json:"reconcile"`
	// Packs are those that have changed, with their findings.
	Packs []Pack `json:"packs"`
	// Gone are the refs of packs that are no longer listed.
	Gone []string `json:"gone"`
}

// feeds are what can be followed.
type feeds struct {
	executions *feed[Execution]
	events     *feed[Event]
	reconcile  *feed[ReconcileChange]
}

func (s *Server) newFeeds() feeds {
	log := s.log
	on := func(channel string) func() (<-chan string, func()) {
		return func() (<-chan string, func()) { return s.opts.Notices.Subscribe(channel) }
	}
	claimed := on(store.ChannelClaimed)
	never := func() (<-chan string, func()) { return nil, func() {} }
	return feeds{
		executions: newFeed(log, on(store.ChannelFinished), claimed, s.beginExecutions),
		events:     newFeed(log, on(store.ChannelQueue), claimed, s.beginEvents),
		reconcile:  newFeed(log, on(store.ChannelCatalog), never, s.beginReconcile),
	}
}

// pump looks for what is followed, until ctx ends.
func (f *feeds) pump(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { f.executions.pump(ctx) })
	wg.Go(func() { f.events.pump(ctx) })
	wg.Go(func() { f.reconcile.pump(ctx) })
	wg.Wait()
}

func (s *Server) beginExecutions(ctx context.Context) (looker[Execution], error) {
	track, err := s.opts.Store.TrackExecutions(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, payloads []string) (items []feedItem[Execution], gap string, more bool, err error) {
		catalog, err := s.catalog(ctx)
		if err != nil {
			return nil, "", false, err
		}
		changed, lost, more, err := track.Look(ctx, payloads)
		if err != nil {
			return nil, "", false, err
		}
		if lost {
			gap = "many executions have ended, or may have, of which not all are known here; list them"
		}
		for i := range changed {
			changed[i].Parameters = masked(catalog, &changed[i])
			item, err := itemOf(&changed[i])
			if err != nil {
				return nil, "", false, err
			}
			items = append(items, item)
		}
		return items, gap, more, nil
	}, nil
}

func (s *Server) beginEvents(ctx context.Context) (looker[Event], error) {
	track, err := s.opts.Store.TrackEvents(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ []string) (items []feedItem[Event], gap string, more bool, err error) {
		catalog, err := s.catalog(ctx)
		if err != nil {
			return nil, "", false, err
		}
		came, more, err := track.Look(ctx)
		if err != nil {
			return nil, "", false, err
		}
		for i := range came {
			came[i].Payload = maskedPayload(catalog, &came[i])
			item, err := itemOf(&came[i])
			if err != nil {
				return nil, "", false, err
			}
			items = append(items, item)
		}
		return items, "", more, nil
	}, nil
}

// beginReconcile compares what there is with what there was.
func (s *Server) beginReconcile(ctx context.Context) (looker[ReconcileChange], error) {
	before, _, err := s.reconcileNow(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ []string) ([]feedItem[ReconcileChange], string, bool, error) {
		now, change, err := s.reconcileNow(ctx)
		if err != nil {
			return nil, "", false, err
		}
		change.Packs = slices.DeleteFunc(change.Packs, func(p Pack) bool { return bytes.Equal(before.packs[p.Ref], now.packs[p.Ref]) })
		for _, ref := range slices.Sorted(maps.Keys(before.packs)) {
			if _, still := now.packs[ref]; !still {
				change.Gone = append(change.Gone, ref)
			}
		}
		same := bytes.Equal(before.status, now.status) && len(change.Packs)+len(change.Gone) == 0
		before = now
		if same {
			return nil, "", false, nil
		}
		item, err := itemOf(change)
		return []feedItem[ReconcileChange]{item}, "", false, err
	}, nil
}

// reconcileLook is what there is, in a form that can be compared.
type reconcileLook struct {
	status []byte
	packs  map[string][]byte
}

func (s *Server) reconcileNow(ctx context.Context) (*reconcileLook, *ReconcileChange, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, nil, err
	}
	change := &ReconcileChange{Reconcile: s.reconcile(catalog.Generation), Packs: packs(catalog, true), Gone: []string{}}
	look := &reconcileLook{packs: make(map[string][]byte, len(change.Packs))}
	for i := range change.Packs {
		change.Packs[i] = s.withEnvironments(change.Packs[i])
		if look.packs[change.Packs[i].Ref], err = encodeLine(change.Packs[i]); err != nil {
			return nil, nil, err
		}
	}
	// What every scan moves is no change.
	still := change.Reconcile
	still.LastScan, still.ScanSeconds = nil, 0
	look.status, err = encodeLine(still)
	return look, change, err
}

// executionStream is the input of the stream of executions.
type executionStream struct {
	Resume
	Action string   `query:"action"`
	Rule   string   `query:"rule"`
	Pack   string   `query:"pack"`
	Status []string `query:"status,explode"`
	Event  int64    `query:"event" minimum:"0"`
}

func (s *Server) streamExecutions(ctx context.Context, q *executionStream) (func(*eventWriter), error) {
	filter, err := executionFilter(q.Action, q.Rule, onlyPack(ctx, q.Pack), "", q.Event, q.Status)
	if err != nil {
		return nil, err
	}
	return serve(ctx, s, s.feeds.executions, "execution", q.LastEventID, func(e *Execution) bool {
		return (filter.Action == "" || filter.Action == e.Action) &&
			(filter.Pack == "" || filter.Pack == e.Pack) &&
			(filter.Rule == "" || e.Rule != nil && filter.Rule == *e.Rule) &&
			(filter.EventID == 0 || e.EventID != nil && filter.EventID == *e.EventID) &&
			(len(filter.Status) == 0 || slices.Contains(filter.Status, e.Status))
	})
}

// eventStream is the input of the stream of events.
type eventStream struct {
	Resume
	Trigger string `query:"trigger"`
	Source  string `query:"source" doc:"A sensor's ref, api, webhook or attune"`
}

func (s *Server) streamEvents(ctx context.Context, q *eventStream) (func(*eventWriter), error) {
	return serve(ctx, s, s.feeds.events, "event", q.LastEventID, func(e *Event) bool {
		return (q.Trigger == "" || q.Trigger == e.Trigger) && (q.Source == "" || q.Source == e.Source) && sees(ctx, packOfRef(e.Trigger))
	})
}

func (s *Server) streamReconcile(ctx context.Context, in *Resume) (func(*eventWriter), error) {
	return serve(ctx, s, s.feeds.reconcile, "reconcile", in.LastEventID, func(*ReconcileChange) bool { return true })
}
