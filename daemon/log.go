package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/journal"
)

// NewLogger makes the daemon's logger: level and format are those of [log]. Format auto is journal
// where stderr is the journal's stream, else text.
func NewLogger(w io.Writer, config LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(config.Level)); err != nil {
		return nil, fmt.Errorf("cannot use log.level: %v", err)
	}
	options := &slog.HandlerOptions{Level: level}
	switch config.Format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "journal":
		return slog.New(newJournalHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "auto":
		if toJournal, err := journal.StderrIsJournalStream(); err == nil && toJournal {
			return slog.New(newJournalHandler(w, options)), nil
		}
		return slog.New(slog.NewTextHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("cannot use log.format: found %q, expected auto, text, json, journal", config.Format)
	}
}

// journalHandler writes text lines that begin with the journal's priority. They have neither time nor
// level, which the journal keeps itself.
type journalHandler struct {
	slog.Handler
	out *priorityWriter
}

func newJournalHandler(w io.Writer, options *slog.HandlerOptions) *journalHandler {
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	out := &priorityWriter{w: w}
	return &journalHandler{slog.NewTextHandler(out, options), out}
}

// Handle writes one line. The lock keeps its priority with it: the inner handler writes once a record.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.prefix = priority(r.Level)
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the priorities of the handler with more attributes.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup keeps the priorities of the handler of a group.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.Handler.WithGroup(name), h.out}
}

// priority is syslog's, as sd-daemon(3) has it.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	default:
		return "<7>"
	}
}

// priorityWriter puts the prefix before what is written, in one write.
type priorityWriter struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
	line   bytes.Buffer
}

func (p *priorityWriter) Write(line []byte) (int, error) {
	p.line.Reset()
	p.line.WriteString(p.prefix)
	p.line.Write(line)
	if _, err := p.w.Write(p.line.Bytes()); err != nil {
		return 0, err
	}
	return len(line), nil
}

// SwitchedLog makes a logger whose level and format can be changed while it is used.
type SwitchedLog struct {
	w       io.Writer
	current atomic.Pointer[slog.Handler]
}

// NewSwitchedLog begins with the level and the format of config.
func NewSwitchedLog(w io.Writer, config LogConfig) (*SwitchedLog, error) {
	s := &SwitchedLog{w: w}
	return s, s.Set(config)
}

// Set changes level and format of all loggers that came from Logger.
func (s *SwitchedLog) Set(config LogConfig) error {
	logger, err := NewLogger(s.w, config)
	if err != nil {
		return err
	}
	handler := logger.Handler()
	s.current.Store(&handler)
	return nil
}

// Logger gives the logger.
func (s *SwitchedLog) Logger() *slog.Logger { return slog.New(&switchedHandler{log: s}) }

// switchedHandler is a handler of its own on whatever the log's is now: with makes it, and made is the last one
// made.
type switchedHandler struct {
	log  *SwitchedLog
	with func(slog.Handler) slog.Handler // nil: the log's own
	made atomic.Pointer[madeHandler]
}

type madeHandler struct {
	of      *slog.Handler
	handler slog.Handler
}

func (h *switchedHandler) now() slog.Handler {
	of := h.log.current.Load()
	if h.with == nil {
		return *of
	}
	made := h.made.Load()
	if made == nil || made.of != of {
		made = &madeHandler{of: of, handler: h.with(*of)}
		h.made.Store(made)
	}
	return made.handler
}

// Enabled says what the handler of now says.
func (h *switchedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.now().Enabled(ctx, level)
}

// Handle has the handler of now write the record.
func (h *switchedHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

// WithAttrs gives a handler with more attributes.
func (h *switchedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.derive(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup gives a handler of a group.
func (h *switchedHandler) WithGroup(name string) slog.Handler {
	return h.derive(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *switchedHandler) derive(more func(slog.Handler) slog.Handler) slog.Handler {
	if h.with == nil {
		return &switchedHandler{log: h.log, with: more}
	}
	return &switchedHandler{log: h.log, with: func(to slog.Handler) slog.Handler { return more(h.with(to)) }}
}
