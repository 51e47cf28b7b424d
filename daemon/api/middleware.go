package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/store"
)

// requestHeader carries the id of a request, in the answer and in every log line about it.
const requestHeader = "X-Request-Id"

// maxBody bounds the body of a request, in bytes: parameters and payloads are what the database
// should hold in one row.
const maxBody = 1 << 20

type requestKey struct{}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// identify gives each request an id, bounds its body, and sets the headers that every answer has.
func identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		w.Header().Set(requestHeader, id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// wrap turns a panic into an answer with the request's id, and every error that the mux makes itself
// into a problem document.
func (s *Server) wrap(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		answer := &recorder{ResponseWriter: w}
		defer func() {
			if problem := recover(); problem != nil {
				s.panicked(answer, r, problem)
			}
			s.log.Debug("request", "request_id", requestID(r.Context()), "method", r.Method, "path", r.URL.Path, "status", answer.status,
				"by", caller(r.Context()), "origin", visitorOf(r.Context()).origin, "duration", time.Since(began))
		}()
		if _, pattern := mux.Handler(r); pattern == "" {
			unrouted(answer, r, mux)
			return
		}
		serveTagged(answer, r, mux)
	})
}

// panicked answers for a handler that panicked, unless it was the way to cut a connection.
func (s *Server) panicked(w *recorder, r *http.Request, problem any) {
	if err, ok := problem.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(problem)
	}
	s.log.Error("request handler panicked", "request_id", requestID(r.Context()), "method", r.Method, "path", r.URL.Path,
		"err", fmt.Sprint(problem), "stack", string(debug.Stack()))
	if w.status == 0 {
		writeError(w, r, newError(CodeInternal, "cannot answer: the daemon made a mistake",
			"its log has the details, under the request's id"))
		return
	}
	// Half of an answer is out: cutting the connection is the only way left to say that it is broken.
	panic(http.ErrAbortHandler)
}

// unrouted answers for paths and methods that the mux does not know, in our words instead of its own.
func unrouted(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	asked := &silent{header: http.Header{}}
	mux.ServeHTTP(asked, r)
	switch asked.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", asked.header.Get("Allow"))
		writeError(w, r, newError(CodeMethod, fmt.Sprintf("cannot %s %s", r.Method, r.URL.Path), "allowed: "+asked.header.Get("Allow")))
	case http.StatusNotFound:
		writeError(w, r, newError(CodeNotFound, fmt.Sprintf("path %s is not known", r.URL.Path), "see "+prefix+"/openapi.json"))
	default: // a redirect to the cleaned path
		w.Header().Set("Location", asked.header.Get("Location"))
		w.WriteHeader(asked.status)
	}
}

// silent takes an answer that nobody is to see.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
func (s *silent) WriteHeader(status int)      { s.status = status }

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap gives http.ResponseController the writer that can flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// writeError answers with a problem document.
func writeError(w http.ResponseWriter, r *http.Request, problem *Error) {
	problem.RequestID = requestID(r.Context())
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(problem.Status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	// Whoever has gone away does not hear it.
	_ = encoder.Encode(problem)
}

// problemOf turns what a handler gives into what goes out. A database that is away is told as such;
// everything unforeseen is told in full, since who may open the socket may read the log as well.
func problemOf(ctx context.Context, err error) *Error {
	var problem *Error
	switch {
	case errors.As(err, &problem):
	case errors.Is(err, store.ErrNotFound):
		problem = newError(CodeNotFound, err.Error(), "")
	case errors.Is(err, reconcile.ErrFollows):
		hint := "ask again in half a minute, when one does"
		if follows, ok := errors.AsType[*reconcile.FollowsError](err); ok && follows.Leader != "" {
			hint = "ask the daemon of node " + follows.Leader + ", or bring its packs folder up to date: it is the one that counts"
		}
		problem = newError(CodeConflict, err.Error(), hint)
	case errors.Is(err, store.ErrNotHeld), isMoved(err):
		problem = newError(CodeConflict, err.Error(), "nothing was applied; ask again")
	case ctx.Err() != nil:
		problem = newError(CodeUnavailable, "cannot answer: the daemon stops, or the caller has gone", "")
	case store.IsUnspeakable(err):
		problem = newError(CodeInvalidRequest, err.Error(), "expected text without NUL, and numbers within their bounds")
	case store.IsTransient(err):
		problem = newError(CodeUnavailable, fmt.Sprintf("cannot reach the database: %v", err), "it is tried again; `attune status` tells how it goes")
	default:
		problem = newError(CodeInternal, err.Error(), "")
	}
	problem.RequestID = requestID(ctx)
	return problem
}

func isMoved(err error) bool {
	_, moved := errors.AsType[*store.MovedError](err)
	return moved
}

// toProblem is huma's hook that turns the errors which it makes itself (a body that is no JSON, a
// filter that is no number) into ours.
func toProblem(ctx huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	problem := newError(codeOf(model.Status), "cannot take the request: "+model.Detail, "")
	if problem.Code == CodeTooLarge {
		problem = tooLarge(ctx.Header("Content-Length"))
	}
	problem.Status, problem.Title = model.Status, http.StatusText(model.Status)
	problem.RequestID = requestID(ctx.Context())
	for _, detail := range model.Errors {
		if detail != nil {
			problem.Errors = append(problem.Errors, ErrorDetail{Pointer: pointerOf(detail.Location), Message: detail.Message})
		}
	}
	return problem, nil
}

// tooLarge refuses a request of so many bytes, as a header has it; empty: nobody knows.
func tooLarge(length string) *Error {
	found := "more"
	if n, err := strconv.ParseInt(length, 10, 64); err == nil && n > 0 {
		found = fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return newError(CodeTooLarge, fmt.Sprintf("cannot take the request: expected at most %d MiB of parameters or payload, found %s", maxBody>>20, found),
		"put what is large into a file where the action finds it, and hand over its path or its URL")
}

func codeOf(status int) Code {
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return CodeTooLarge
	case status == http.StatusNotFound:
		return CodeNotFound
	case status >= http.StatusInternalServerError:
		return CodeInternal
	default:
		return CodeInvalidRequest
	}
}

// pointerOf turns huma's place ("body.parameters.x", "query.limit") into ours.
func pointerOf(location string) string {
	where, rest, _ := strings.Cut(location, ".")
	if where == "body" {
		if rest == "" {
			return ""
		}
		return "/" + strings.ReplaceAll(rest, ".", "/")
	}
	return rest
}

// promLog writes what goes wrong while metrics are gathered.
type promLog struct{ log *slog.Logger }

func (p promLog) Println(v ...any) {
	p.log.Error("cannot gather all metrics", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
