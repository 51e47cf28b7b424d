package api

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/attune-io/attune/reconcile/manifest"
)

// sensorStream is the input of the stream of a sensor's log.
type sensorStream struct {
	Resume
	Ref string `path:"ref"`
}

// streamSensorLogs hands on what is kept of a sensor's stderr and what comes. An id is the name of what is kept and
// the number of a line in it.
func (s *Server) streamSensorLogs(ctx context.Context, in *sensorStream) (func(*eventWriter), error) {
	catalog, r, err := s.find(ctx, manifest.KindSensor, in.Ref)
	switch {
	case err != nil:
		return nil, err
	case !r.Enabled:
		return nil, disabled(catalog, r)
	}
	ctx, cancel := s.streaming(ctx)
	journal, number, _ := strings.Cut(in.LastEventID, ".")
	after, parseErr := strconv.ParseInt(number, 10, 64)
	lines, name, ok := s.opts.Sensors.Logs(ctx, in.Ref, true, max(after, 0))
	unknown := in.LastEventID != "" && (parseErr != nil || name != journal)
	if unknown && after > 0 {
		lines, name, ok = s.opts.Sensors.Logs(ctx, in.Ref, true, 0)
	}
	if unknown {
		after = 0
	}
	return func(w *eventWriter) {
		defer cancel()
		id := func(number int64) string { return name + "." + strconv.FormatInt(number, 10) }
		if w.sendJSON(kindReady, id(after), Ready{}) != nil {
			return
		}
		if unknown && w.sendJSON(kindGap, id(after), Gap{Reason: "the sensor's log has begun anew since: this is all that is kept of it"}) != nil {
			return
		}
		if !ok {
			return
		}
		beat := time.NewTicker(streamBeat)
		defer beat.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-beat.C:
				if w.beat(id(after)) != nil {
					return
				}
			case line, open := <-lines:
				if !open {
					return
				}
				if missed := line.Number - after - 1; missed > 0 && (after > 0 || in.LastEventID != "") &&
					w.sendJSON(kindGap, id(line.Number-1), Gap{Reason: "more was written than is kept", Missed: missed}) != nil {
					return
				}
				after = line.Number
				if w.sendJSON("line", id(after), LogLine{Text: line.Text}) != nil {
					return
				}
			}
		}
	}, nil
}

// outputStream is the input of the stream of an execution's output.
type outputStream struct {
	Resume
	ID int64 `path:"id" minimum:"1"`
}

// streamOutput follows an execution to its end. An id is the attempt and how much of each of its streams came.
func (s *Server) streamOutput(ctx context.Context, in *outputStream) (func(*eventWriter), error) {
	detail, err := s.executionDetail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r := &resumption{unknown: in.LastEventID != ""}
	if at, ok := parsePosition(in.LastEventID); ok {
		r.after, r.unknown = at, false
	}
	return func(w *eventWriter) {
		r.w = w
		if r.begin() != nil {
			return
		}
		f, done := s.follower(r.write)
		defer done()
		// Who follows a daemon that stops goes on behind the last id, at the next one.
		if err := f.follow(ctx, detail, true); err != nil && ctx.Err() == nil && !f.stopped {
			_ = w.sendJSON(kindError, "", problemOf(ctx, err))
		}
	}, nil
}

// position is how much of an output has come: of attempts before all, of this one so much of each stream.
type position struct {
	attempt        int
	stdout, stderr int64
}

func (p position) String() string { return fmt.Sprintf("%d.%d.%d", p.attempt, p.stdout, p.stderr) }

func (p *position) of(stream string) *int64 {
	if stream == "stderr" {
		return &p.stderr
	}
	return &p.stdout
}

func parsePosition(text string) (p position, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return position{}, false
	}
	var err error
	if p.attempt, err = strconv.Atoi(parts[0]); err != nil {
		return position{}, false
	}
	for i, n := range []*int64{&p.stdout, &p.stderr} {
		if *n, err = strconv.ParseInt(parts[i+1], 10, 64); err != nil || *n < 0 {
			return position{}, false
		}
	}
	return p, p.attempt >= 0
}

// resumption writes the output of an execution behind what has come already.
type resumption struct {
	w       *eventWriter
	after   position // what has come
	at      position // what was looked at
	unknown bool     // the id said nothing
}

func (r *resumption) begin() error {
	if err := r.w.sendJSON(kindReady, r.after.String(), Ready{}); err != nil || !r.unknown {
		return err
	}
	return r.w.sendJSON(kindGap, r.after.String(), Gap{Reason: "that id is none of this execution's output: it begins anew"})
}

// write is follower.write. Whatever it is told is sent at once.
func (r *resumption) write(line any, _ bool) error {
	out, ok := line.(OutputLine)
	if !ok || out.Execution != nil {
		return r.w.sendJSON("output", r.at.String(), line)
	}
	if out.Attempt != r.at.attempt {
		r.at = position{attempt: out.Attempt}
	}
	if r.at.attempt < r.after.attempt {
		return nil
	}
	if out.Text == "" {
		if r.at.attempt == r.after.attempt {
			return nil // that it begins has come
		}
		return r.w.sendJSON("output", r.at.String(), out)
	}
	come := r.at.of(out.Stream)
	if r.at.attempt == r.after.attempt {
		if missing := *r.after.of(out.Stream) - *come; missing > 0 {
			text, gap := behind(out.Text, missing)
			*come += kept(out.Text) - kept(text)
			if gap {
				*r.after.of(out.Stream) = 0
				err := r.w.sendJSON(kindGap, r.at.String(), Gap{Reason: "more was printed than is kept: some of what follows may have come already"})
				if err != nil {
					return err
				}
			}
			if out.Text = text; text == "" {
				return nil
			}
		}
	}
	*come += kept(out.Text)
	return r.w.sendJSON("output", r.at.String(), out)
}

// kept is how much of a text counts: what stands for bytes that are no text depends on how they were cut.
func kept(text string) int64 {
	return int64(len(text) - utf8.RuneLen(utf8.RuneError)*strings.Count(text, string(utf8.RuneError)))
}

// omitted is what stands in an output for what is not kept of it.
var omitted = regexp.MustCompile(`(?m)^\[… \d+ bytes left out …\]$`)

// behind gives what is left of a text without so much of it. gap says that there is less: from a place on at which
// something is left out.
func behind(text string, n int64) (rest string, gap bool) {
	cut := len(text)
	for i, r := range text {
		if n <= 0 {
			cut = i
			break
		}
		if r != utf8.RuneError {
			n -= int64(utf8.RuneLen(r))
		}
	}
	if place := omitted.FindStringIndex(text); place != nil && place[0] < cut {
		return text[place[0]:], true
	}
	return text[cut:], false
}
