package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	codeReadOnly  = "25006"
	codeCancelled = "57014"
	codeLocked    = "55P03"

	codeInsufficientPrivilege = "42501"
	codeUndefinedTable        = "42P01"
	codeSerialization         = "40001"
	codeDeadlock              = "40P01"
	codeNotHeld               = "AT001" // of attune.not_held
)

// The reasons of attune_db_failures_total.
const (
	failureConnection    = "connection"
	failureDeadlock      = "deadlock"
	failureReadOnly      = "read_only"
	failureResources     = "resources" // disk, memory, connections
	failureSerialization = "serialization"
	failureTimeout       = "timeout"
)

func failureReasons() []string {
	return []string{failureConnection, failureDeadlock, failureReadOnly, failureResources, failureSerialization, failureTimeout}
}

// failureReason says why a statement failed that may succeed later.
func failureReason(err error) string {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok && errors.Is(err, context.DeadlineExceeded):
		return failureTimeout
	case !ok:
		return failureConnection
	case pg.Code == codeDeadlock:
		return failureDeadlock
	case pg.Code == codeSerialization:
		return failureSerialization
	case pg.Code == codeReadOnly:
		return failureReadOnly
	case pg.Code[:2] == "53", pg.Code == "58030":
		return failureResources
	case pg.Code == codeLocked, pg.Code == codeCancelled, pg.Code == "25P03":
		return failureTimeout
	default:
		return failureConnection
	}
}

// IsTransient says whether a later try of the same statement may succeed: a lost or refused
// connection, a server that is starting or stopping, a deadlock, a time-out, a row that somebody has locked.
func IsTransient(err error) bool {
	if err == nil {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return isTransientCode(pg.Code)
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, ErrRowLocked):
		return true
	case errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, pgconn.ErrConnClosed),
		errors.Is(err, net.ErrClosed),
		errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF):
		return true
	}
	return pgconn.SafeToRetry(err)
}

// IsTimeout says whether it failed because something took too long: the server, or who has locked a row.
func IsTimeout(err error) bool { return IsTransient(err) && failureReason(err) == failureTimeout }

func isTransientCode(code string) bool {
	switch code {
	case
		"25P03",      // idle_in_transaction_session_timeout
		codeReadOnly, // read_only_sql_transaction: a failover is under way
		codeSerialization,
		codeDeadlock,
		codeLocked,    // lock_not_available
		codeCancelled, // query_canceled: our own time-out
		"57P01",       // admin_shutdown
		"57P02",       // crash_shutdown: kill -9 of any one backend ends every session
		"57P03",       // cannot_connect_now
		"57P05",       // idle_session_timeout
		"58030":       // io_error
		return true
	}
	switch code[:min(2, len(code))] {
	case
		"08", // connection exception
		"53": // insufficient resources: disk full, too many connections
		return true
	}
	return false
}

// isNotHeld says whether a transaction failed because a lease that it was made under is not held.
func isNotHeld(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == codeNotHeld
}

// IsUnspeakable says whether the server was asked about something that no text or number of its own can be: a NUL,
// say. It is whoever asked who has to ask for something else.
func IsUnspeakable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "22021" || pg.Code == "22P05" || pg.Code == "22003")
}

// isData says whether the server refused what it was given: trying again is useless, trying with
// less may do.
func isData(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case
		"22", // data exception
		"23", // integrity constraint violation
		"54": // program limit exceeded: nested too deep, too long for an index
		return true
	}
	return false
}

// isRefused says whether the server would not take something for what it is: what it was given, or the
// row that it is for. Besides what isData tells, that is a trigger of an operator's, and a damaged page.
func isRefused(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "P0", "XX":
		return true
	}
	return isData(err)
}

// inHalves has some done together or, where the database refuses that, in halves, until what it refuses is alone.
func inHalves[T any](some []T, do func([]T) error, refused func(T, error) error) error {
	err := do(some)
	switch {
	case err == nil || !isRefused(err):
		return err
	case len(some) == 1:
		return refused(some[0], err)
	}
	half := len(some) / 2
	if err := inHalves(some[:half], do, refused); err != nil {
		return err
	}
	return inHalves(some[half:], do, refused)
}

// blamed adds to the error of a statement that waited too long who holds a lock on a whole table of ours: as long as
// that goes on nothing else goes on, and nobody but an operator can end it. A server that did not even take back the
// statement is not asked.
func (s *Store) blamed(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != codeCancelled && pg.Code != codeLocked {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), blameTimeout)
	defer cancel()
	rows, asked := s.pool.Query(ctx, s.queries.get("TableLocks"))
	if asked != nil {
		return err
	}
	holders, asked := pgx.CollectRows(rows, pgx.RowTo[string])
	if asked != nil || len(holders) == 0 {
		return err
	}
	return fmt.Errorf("%w; %s: end that session", err, strings.Join(holders, ", and "))
}

// failed gives the error its object. A server that turned read-only is left at once, because every
// pooled connection leads to it.
func (s *Store) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	if IsTransient(err) {
		s.metrics.failures.WithLabelValues(failureReason(err)).Inc()
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == codeReadOnly {
		s.pool.Reset()
		if s.hotPool != nil {
			s.hotPool.Reset()
		}
		s.metrics.reconnects.Inc()
	}
	return fmt.Errorf("cannot %s: %w", doing, s.blamed(err))
}
