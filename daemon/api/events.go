package api

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// eventQuery narrows the list of events, and pages it.
type eventQuery struct {
	Since   string `query:"since" doc:"90s, 1h or 7d before now, or an RFC 3339 time"`
	Before  int64  `query:"before" minimum:"0" doc:"Ids below this one: the last of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Trigger string `query:"trigger"`
	Source  string `query:"source" doc:"A sensor's ref, api, webhook or attune"`
}

func (s *Server) listEvents(ctx context.Context, q *eventQuery) ([]Event, error) {
	since, err := parseSince(q.Since, time.Now())
	if err != nil {
		return nil, err
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	filter := store.EventFilter{Trigger: q.Trigger, Source: q.Source, Since: since, Before: q.Before, Limit: q.Limit}
	if visitorOf(ctx).pack != "" {
		if filter.Triggers = onlyRefs(ctx, slices.Collect(maps.Keys(catalog.Triggers))); q.Trigger != "" {
			filter.Triggers = onlyRefs(ctx, []string{q.Trigger})
		}
		if len(filter.Triggers) == 0 {
			return []Event{}, nil
		}
	}
	events, err := s.opts.Store.ListEvents(ctx, filter)
	if err != nil {
		return nil, err
	}
	for i := range events {
		events[i].Payload = maskedPayload(catalog, &events[i])
	}
	return orEmpty(events), nil
}

func (s *Server) showEvent(ctx context.Context, in *byID) (*EventDetail, error) {
	return s.eventDetail(ctx, in.ID)
}

func (s *Server) eventDetail(ctx context.Context, id int64) (*EventDetail, error) {
	event, enforcements, err := s.opts.Store.Event(ctx, id)
	if err == nil && !sees(ctx, packOfRef(event.Trigger)) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, numbered("event", id, err)
	}
	rules, more, err := s.verdicts(ctx, event, enforcements)
	if err != nil {
		return nil, err
	}
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	event.Payload = maskedPayload(catalog, event)
	if visitorOf(ctx).pack != "" {
		enforcements = slices.DeleteFunc(enforcements, func(e Enforcement) bool { return !sees(ctx, packOfRef(e.Rule)) })
		rules = slices.DeleteFunc(rules, func(v RuleVerdict) bool { return !sees(ctx, packOfRef(v.Rule)) })
		more = 0
	}
	return &EventDetail{Event: *event, Enforcements: orEmpty(enforcements), Rules: rules, MoreRules: more}, nil
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if ago, ok := parseAgo(text); ok {
		return now.Add(-ago), nil
	}
	return time.Time{}, newError(CodeInvalidRequest, fmt.Sprintf("cannot use since: found %q", text),
		"expected 90s, 1h or 7d, or a time like "+now.UTC().Format(time.RFC3339))
}

// parseAgo reads "90s", "1h30m" or "7d".
func parseAgo(text string) (time.Duration, bool) {
	const longest = 36500 // days; beyond it a duration has no room
	if number, isDays := strings.CutSuffix(text, "d"); isDays {
		days, err := strconv.Atoi(number)
		return time.Duration(days) * 24 * time.Hour, err == nil && days >= 0 && days <= longest
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// seconds is a span of a manifest as a number.
func seconds(d manifest.Duration) float64 { return time.Duration(d).Seconds() }
