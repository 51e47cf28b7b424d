package api

import (
	"errors"
	"net/http"
	"strings"
)

// ErrNoDaemon says that no daemon answers where one was looked for.
var ErrNoDaemon = errors.New("no daemon answers")

// ErrDenied says that there is a socket, and that it is not for this user. It is ErrNoDaemon, too.
var ErrDenied = errors.New("no permission")

// deniedError is of a socket that this user may not use.
type deniedError struct{ path string }

func (e *deniedError) Error() string { return "no permission for socket " + e.path }

func (e *deniedError) Is(target error) bool { return target == ErrNoDaemon || target == ErrDenied }

// ErrPlain and ErrTLS say that somebody answers who speaks the other of http:// and https://.
var (
	ErrPlain = errors.New("it speaks plain HTTP there, not TLS")
	ErrTLS   = errors.New("it speaks TLS there, not plain HTTP")
)

// ErrUntrusted says that somebody answers who does not prove to be the daemon.
var ErrUntrusted = errors.New("its certificate is not believed")

// Code is the stable name of a kind of error, for programs to decide by.
type Code string

// The codes.
const (
	CodeInvalidRequest    Code = "invalid_request"    // the request itself: a field, a filter, a body
	CodeInvalidParameters Code = "invalid_parameters" // parameters or a payload against their schema
	CodeUnauthorized      Code = "unauthorized"       // nobody knows who asks
	CodeForbidden         Code = "forbidden"          // who asks may not
	CodeNotFound          Code = "not_found"          // no such ref, id or path
	CodeMethod            Code = "method_not_allowed"
	CodeConflict          Code = "conflict" // the thing's state forbids it
	CodeDisabled          Code = "disabled" // the component is not in force
	CodeTooLarge          Code = "too_large"
	CodeTooMany           Code = "too_many_requests" // come again later
	CodeUnavailable       Code = "unavailable"       // the database is away, or the daemon starts or stops
	CodeInternal          Code = "internal"
)

// statuses is the one table from code to HTTP status.
var statuses = map[Code]int{
	CodeInvalidRequest:    http.StatusBadRequest,
	CodeInvalidParameters: http.StatusUnprocessableEntity,
	CodeUnauthorized:      http.StatusUnauthorized,
	CodeForbidden:         http.StatusForbidden,
	CodeNotFound:          http.StatusNotFound,
	CodeMethod:            http.StatusMethodNotAllowed,
	CodeConflict:          http.StatusConflict,
	CodeDisabled:          http.StatusConflict,
	CodeTooLarge:          http.StatusRequestEntityTooLarge,
	CodeTooMany:           http.StatusTooManyRequests,
	CodeUnavailable:       http.StatusServiceUnavailable,
	CodeInternal:          http.StatusInternalServerError,
}

// Error is what the API answers when it cannot do what was asked: a problem document, and in the
// client the Go error.
type Error struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	// Detail is the sentence for people: "action core.ecko is not known".
	Detail string `json:"detail"`
	// Hint says what to do: "did you mean core.echo?".
	Hint      string        `json:"hint,omitempty"`
	RequestID string        `json:"request_id,omitempty"`
	Errors    []ErrorDetail `json:"errors,omitempty"`
}

// ErrorDetail is one of several things that are wrong.
type ErrorDetail struct {
	// Pointer is the JSON pointer into the parameters or the payload, or the name of the filter.
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

// newError makes an error of a code.
func newError(code Code, detail, hint string, errs ...ErrorDetail) *Error {
	status := statuses[code]
	return &Error{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Hint: hint, Errors: errs}
}

// Error gives the detail and, each on a line of its own, the single errors. The hint is left to
// whoever prints.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Detail)
	for _, d := range e.Errors {
		b.WriteString("\n  ")
		if d.Pointer != "" {
			b.WriteString(d.Pointer + ": ")
		}
		b.WriteString(d.Message)
	}
	return b.String()
}

// GetStatus is the HTTP status, for huma.
func (e *Error) GetStatus() int { return e.Status }

// ContentType names problem documents as such, for huma.
func (e *Error) ContentType(string) string { return problemType }

const problemType = "application/problem+json"
