package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/attune-io/attune/daemon/pace"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// dialTimeout bounds the connecting alone: a daemon on this machine answers at once, and one
	// that does not within it is as good as none.
	dialTimeout = 5 * time.Second

	// maxErrorBody bounds what is read of an answer that is an error.
	maxErrorBody = 1 << 20
)

// Client talks to one daemon, with a method for each route. It is safe for concurrent use.
//
// Errors: ErrNoDaemon (by errors.Is) where nobody answers, ErrUntrusted where its certificate is not believed, *Error (by errors.As) where the daemon
// refuses, and the context's error where the caller gave up.
type Client struct {
	http  *http.Client
	base  string // without a slash at its end
	name  string // for errors: the URL, or the sockets
	token string // empty: none
}

// Option is something that a client may have beside a URL.
type Option func(*Client)

// WithToken sends a token along, which the unix socket does not want. It is sent in the clear to this machine
// alone: elsewhere it wants https.
func WithToken(token string) Option { return func(c *Client) { c.token = token } }

// WithRoots believes the certificates that these sign, instead of those that the machine knows.
func WithRoots(roots *x509.CertPool) Option {
	return func(c *Client) {
		if transport, ok := c.http.Transport.(*http.Transport); ok {
			transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		}
	}
}

// NewClient makes a client for a URL: http://…, https://… or unix:///path/of/socket. Nothing is
// connected yet.
func NewClient(rawURL string, options ...Option) (*Client, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil && strings.Contains(rawURL, "://"):
		return nil, fmt.Errorf("cannot read URL of the daemon: %v", err)
	case err != nil: // host:port
		u = &url.URL{}
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return NewSocketClient([]string{u.Path})
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		base := strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/")
		dialer := &net.Dialer{Timeout: dialTimeout}
		c := newClient(base, base, dialer.DialContext)
		for _, option := range options {
			option(c)
		}
		if c.token != "" && u.Scheme == "http" && !isHere(u.Hostname()) {
			return nil, fmt.Errorf("cannot send a token to %s in the clear: use https://", u.Host)
		}
		return c, nil
	default:
		return nil, fmt.Errorf("cannot use %q as URL of the daemon: expected http://host:port, https://host:port or unix:///path", rawURL)
	}
}

// isHere says whether a host is this machine.
func isHere(host string) bool {
	return pace.IsLoopback(host) || localName(host) && net.ParseIP(host) == nil
}

// NewSocketClient makes a client for the first of the sockets that accepts a connection; each
// request looks anew, so a client outlives a daemon's restart.
func NewSocketClient(paths []string) (*Client, error) {
	if len(paths) == 0 {
		return nil, errors.New("cannot talk to the daemon: no socket is named")
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialer := &net.Dialer{Timeout: dialTimeout}
		var denied *deniedError
		for _, path := range paths {
			conn, err := dialer.DialContext(ctx, "unix", path)
			if err == nil {
				return conn, nil
			}
			if errors.Is(err, fs.ErrPermission) && denied == nil {
				denied = &deniedError{path}
			}
		}
		if denied != nil {
			return nil, denied
		}
		return nil, syscall.ECONNREFUSED
	}
	return newClient("http://attune", "socket "+strings.Join(paths, ", "), dial), nil
}

func newClient(base, name string, dial func(context.Context, string, string) (net.Conn, error)) *Client {
	return &Client{
		base: base,
		name: name,
		http: &http.Client{
			Transport: &http.Transport{DialContext: dial, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: dialTimeout},
			// An answer that points elsewhere is not from a daemon.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Healthy asks whether the daemon lives.
func (c *Client) Healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+pathHealthy, nil)
	if err != nil {
		return fmt.Errorf("cannot make the request: %v", err)
	}
	c.sign(request)
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return c.refusal(response)
	}
	return nil
}

// Document gives the OpenAPI document of the daemon's API.
func (c *Client) Document(ctx context.Context) (json.RawMessage, error) {
	document, err := get[json.RawMessage](ctx, c, "/openapi.json", nil)
	if err != nil {
		return nil, err
	}
	return *document, nil
}

// Status tells how the daemon is doing.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/status", nil)
}

// Examine asks for what only the daemon can find out for doctor.
func (c *Client) Examine(ctx context.Context) (*Examination, error) {
	return get[Examination](ctx, c, "/examination", nil)
}

// Packs lists packs by ref: those in force, or all.
func (c *Client) Packs(ctx context.Context, f ComponentFilter) ([]Pack, error) {
	return list[Pack](ctx, c, "/packs", f.query())
}

// Pack gives one pack.
func (c *Client) Pack(ctx context.Context, ref string) (*PackDetail, error) {
	return get[PackDetail](ctx, c, "/packs/"+url.PathEscape(ref), nil)
}

// Plan tells what an apply would do now; with pack only of that one.
func (c *Client) Plan(ctx context.Context, pack string) (*Plan, error) {
	return get[Plan](ctx, c, "/plan", values("pack", pack))
}

// Reload scans all packs and applies what changed; with pack the report is of that one only.
func (c *Client) Reload(ctx context.Context, pack string) (*Report, error) {
	return post[Report](ctx, c, "/reload", values("pack", pack), nil)
}

// ForceReload is Reload that applies the pack's files although they are of an older revision.
func (c *Client) ForceReload(ctx context.Context, pack string) (*Report, error) {
	return post[Report](ctx, c, "/reload", values("pack", pack, "force", "true"), nil)
}

// Rollback puts an older revision of a pack back into force, and pins it.
func (c *Client) Rollback(ctx context.Context, pack string, n NewRollback) (*Report, error) {
	return post[Report](ctx, c, "/packs/"+url.PathEscape(pack)+"/rollback", nil, n)
}

// Unpin lets a pack's folder rule again.
func (c *Client) Unpin(ctx context.Context, pack string) (*Report, error) {
	return post[Report](ctx, c, "/packs/"+url.PathEscape(pack)+"/unpin", nil, nil)
}

// Difference tells what lies between two states of a pack's files, each the number of a revision or
// "folder"; empty ones are the newest revision, and the one before.
func (c *Client) Difference(ctx context.Context, pack, from, to string) (*Difference, error) {
	return get[Difference](ctx, c, "/packs/"+url.PathEscape(pack)+"/diff", values("from", from, "to", to))
}

// History lists a pack's revisions, newest first; limit 0 is 100.
func (c *Client) History(ctx context.Context, pack string, limit int) ([]Revision, error) {
	return list[Revision](ctx, c, "/packs/"+url.PathEscape(pack)+"/revisions", values("limit", number(limit)))
}

// Switch switches packs or components on or off as an operator.
func (c *Client) Switch(ctx context.Context, n NewSwitch, enable bool) (*Switched, error) {
	if enable {
		return post[Switched](ctx, c, "/enable", nil, n)
	}
	return post[Switched](ctx, c, "/disable", nil, n)
}

// Pause has no node begin anything more, until somebody resumes.
func (c *Client) Pause(ctx context.Context, n NewPause) (*Paused, error) {
	return post[Paused](ctx, c, "/pause", nil, n)
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context) (*Paused, error) {
	return post[Paused](ctx, c, "/resume", nil, nil)
}

// Audit lists what people changed, newest first.
func (c *Client) Audit(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	return list[AuditEntry](ctx, c, "/audit", values("actor", f.Actor, "action", f.Action, "object", f.Object, "origin", f.Origin,
		"since", f.Since, "before", number(f.Before), "limit", number(f.Limit)))
}

// Tokens lists the tokens that are good, or all there ever were, by name.
func (c *Client) Tokens(ctx context.Context, all bool) ([]Token, error) {
	return list[Token](ctx, c, "/tokens", values("all", truth(all)))
}

// CreateToken makes a token, which nobody is shown again.
func (c *Client) CreateToken(ctx context.Context, n NewToken) (*CreatedToken, error) {
	return post[CreatedToken](ctx, c, "/tokens", nil, n)
}

// RevokeToken ends a token.
func (c *Client) RevokeToken(ctx context.Context, name string) (*Token, error) {
	return post[Token](ctx, c, "/tokens/"+url.PathEscape(name)+"/revoke", nil, nil)
}

// Actions lists actions by ref.
func (c *Client) Actions(ctx context.Context, f ComponentFilter) ([]Action, error) {
	return list[Action](ctx, c, "/actions", f.query())
}

// Action gives one action with the schema of its parameters.
func (c *Client) Action(ctx context.Context, ref string) (*Action, error) {
	return get[Action](ctx, c, "/actions/"+url.PathEscape(ref), nil)
}

// Triggers lists triggers by ref.
func (c *Client) Triggers(ctx context.Context, f ComponentFilter) ([]Trigger, error) {
	return list[Trigger](ctx, c, "/triggers", f.query())
}

// Trigger gives one trigger with its instances.
func (c *Client) Trigger(ctx context.Context, ref string) (*Trigger, error) {
	return get[Trigger](ctx, c, "/triggers/"+url.PathEscape(ref), nil)
}

// Fire stores an event of a trigger and tells what followed.
func (c *Client) Fire(ctx context.Context, trigger string, fire Fire) (*Fired, error) {
	return post[Fired](ctx, c, "/triggers/"+url.PathEscape(trigger)+"/fire", nil, fire)
}

// WebhookToken shows a webhook's own token; where it has none, one is made.
func (c *Client) WebhookToken(ctx context.Context, trigger string) (*WebhookToken, error) {
	return post[WebhookToken](ctx, c, "/triggers/"+url.PathEscape(trigger)+"/token", nil, nil)
}

// RotateWebhookToken replaces a webhook's own token; the former one counts for the grace ("1h") beside it.
func (c *Client) RotateWebhookToken(ctx context.Context, trigger, grace string) (*WebhookToken, error) {
	return post[WebhookToken](ctx, c, "/triggers/"+url.PathEscape(trigger)+"/rotate-token", nil, rotateBody{Grace: grace})
}

// Sensors lists sensors by ref.
func (c *Client) Sensors(ctx context.Context, f ComponentFilter) ([]Sensor, error) {
	return list[Sensor](ctx, c, "/sensors", f.query())
}

// Sensor gives one sensor with the last lines of its stderr.
func (c *Client) Sensor(ctx context.Context, ref string) (*Sensor, error) {
	return get[Sensor](ctx, c, "/sensors/"+url.PathEscape(ref), nil)
}

// RestartSensor restarts a sensor now, whatever its backoff.
func (c *Client) RestartSensor(ctx context.Context, ref string) (*Sensor, error) {
	return post[Sensor](ctx, c, "/sensors/"+url.PathEscape(ref)+"/restart", nil, nil)
}

// SensorLogs gives the last lines of a sensor's stderr to each, and with follow those that come until
// ctx ends or each fails, whose error it then gives.
func (c *Client) SensorLogs(ctx context.Context, ref string, follow bool, each func(line string) error) error {
	return lines(ctx, c, "/sensors/"+url.PathEscape(ref)+"/logs", values("follow", truth(follow)), func(l *LogLine) error {
		return each(l.Text)
	})
}

// Rules lists rules by ref.
func (c *Client) Rules(ctx context.Context, f ComponentFilter) ([]Rule, error) {
	return list[Rule](ctx, c, "/rules", f.query())
}

// Rule gives one rule.
func (c *Client) Rule(ctx context.Context, ref string) (*Rule, error) {
	return get[Rule](ctx, c, "/rules/"+url.PathEscape(ref), nil)
}

// ResetRule closes a rule's breaker and has its throttle and dedupe begin anew.
func (c *Client) ResetRule(ctx context.Context, ref string) (*Reset, error) {
	return post[Reset](ctx, c, "/rules/"+url.PathEscape(ref)+"/reset", nil, nil)
}

// TryRule asks what a rule, applied or not, would make of an event.
func (c *Client) TryRule(ctx context.Context, ref string, n NewTrial) (*Trial, error) {
	return post[Trial](ctx, c, "/rules/"+url.PathEscape(ref)+"/test", nil, n)
}

// TrySensor runs a sensor and gives each line until it ends, ctx ends or each fails, whose error it then
// gives.
func (c *Client) TrySensor(ctx context.Context, ref string, each func(*SensorTrialLine) error) error {
	return readLines(ctx, c, http.MethodPost, "/sensors/"+url.PathEscape(ref)+"/test", nil, nil, each)
}

// TryRuleSince runs an edited rule over the stored events and gives each line until the run is done, ctx
// ends or each fails, whose error it then gives.
func (c *Client) TryRuleSince(ctx context.Context, ref string, n NewTrialRun, each func(*TrialLine) error) error {
	return readLines(ctx, c, http.MethodPost, "/rules/"+url.PathEscape(ref)+"/test-since", nil, n, each)
}

// Events lists events, newest first.
func (c *Client) Events(ctx context.Context, f EventFilter) ([]Event, error) {
	return list[Event](ctx, c, "/events", values("trigger", f.Trigger, "source", f.Source, "since", f.Since,
		"before", number(f.Before), "limit", number(f.Limit)))
}

// Event gives one event with its enforcements.
func (c *Client) Event(ctx context.Context, id int64) (*EventDetail, error) {
	return get[EventDetail](ctx, c, "/events/"+strconv.FormatInt(id, 10), nil)
}

// ReplayEvent stores an event anew, under the rules of today; with rules only for these.
func (c *Client) ReplayEvent(ctx context.Context, id int64, rules []string) (*Fired, error) {
	return post[Fired](ctx, c, "/events/"+strconv.FormatInt(id, 10)+"/replay", nil, replayBody{Rules: rules})
}

// WhyEvent gives the whole chain around an event.
func (c *Client) WhyEvent(ctx context.Context, id int64) (*Why, error) {
	return get[Why](ctx, c, "/events/"+strconv.FormatInt(id, 10)+"/why", nil)
}

// WhyExecution gives the whole chain that led to an execution.
func (c *Client) WhyExecution(ctx context.Context, id int64) (*Why, error) {
	return get[Why](ctx, c, "/executions/"+strconv.FormatInt(id, 10)+"/why", nil)
}

// Executions lists executions, newest first.
func (c *Client) Executions(ctx context.Context, f ExecutionFilter) ([]Execution, error) {
	query := values("action", f.Action, "rule", f.Rule, "pack", f.Pack, "event", number(f.EventID),
		"since", f.Since, "before", number(f.Before), "limit", number(f.Limit))
	for _, status := range f.Status {
		query.Add("status", string(status))
	}
	return list[Execution](ctx, c, "/executions", query)
}

// Execution gives one execution with outputs, result and attempts.
func (c *Client) Execution(ctx context.Context, id int64) (*ExecutionDetail, error) {
	return get[ExecutionDetail](ctx, c, "/executions/"+strconv.FormatInt(id, 10), nil)
}

// Execute queues an action and gives the execution as queued.
func (c *Client) Execute(ctx context.Context, n NewExecution) (*ExecutionDetail, error) {
	return post[ExecutionDetail](ctx, c, "/executions", nil, n)
}

// ExecuteOnce is Execute that may be tried again: of several with one key only the first queues anything, within
// 24 hours, and all give its execution.
func (c *Client) ExecuteOnce(ctx context.Context, key string, n NewExecution) (*ExecutionDetail, error) {
	return post[ExecutionDetail](ctx, c, "/executions", nil, n, "Idempotency-Key", key)
}

// ExecuteBatch queues up to MaxBatch executions. Each is judged alone: the answer has, in order, its id
// or why it was refused.
func (c *Client) ExecuteBatch(ctx context.Context, batch []NewExecution) (*Batch, error) {
	return post[Batch](ctx, c, "/executions/batch", nil, map[string]any{"executions": batch})
}

// Ends tells which of up to MaxBatch executions have ended, and waits so long until one has. since is
// the AskedAt of the first one's batch.
func (c *Client) Ends(ctx context.Context, ids []int64, since time.Time, wait time.Duration) ([]store.End, error) {
	ends, err := post[Ends](ctx, c, "/executions/ends", nil, map[string]any{
		"ids": ids, "since": since, "wait_seconds": wait.Seconds(),
	})
	if err != nil {
		return nil, err
	}
	return ends.Ends, nil
}

// CancelAll cancels the executions that are chosen, or counts them.
func (c *Client) CancelAll(ctx context.Context, choice BulkChoice) (*Bulk, error) {
	return post[Bulk](ctx, c, "/executions/cancel", nil, choice)
}

// Rerun repeats an execution, AsNow or AsThen, and gives the new one as queued.
func (c *Client) Rerun(ctx context.Context, id int64, as string) (*ExecutionDetail, error) {
	return post[ExecutionDetail](ctx, c, "/executions/"+strconv.FormatInt(id, 10)+"/rerun", nil, map[string]any{"as": as})
}

// RerunAll repeats the executions that are chosen, or counts them.
func (c *Client) RerunAll(ctx context.Context, choice BulkChoice, as string) (*Bulk, error) {
	return post[Bulk](ctx, c, "/executions/rerun", nil, struct {
		BulkChoice
		As string `json:"as"`
	}{choice, as})
}

// Cancel cancels a waiting execution, or has a running one stopped.
func (c *Client) Cancel(ctx context.Context, id int64) (*Cancelled, error) {
	return post[Cancelled](ctx, c, "/executions/"+strconv.FormatInt(id, 10)+"/cancel", nil, nil)
}

// Output gives the output of an execution to each, what is there and with follow what comes, and
// returns the execution as it then is: final with follow. Once the daemon has begun to answer, an error is a
// *BrokenOffError.
func (c *Client) Output(ctx context.Context, id int64, follow bool, each func(*OutputLine) error) (*ExecutionDetail, error) {
	response, err := c.do(ctx, http.MethodGet, "/executions/"+strconv.FormatInt(id, 10)+"/output", values("follow", truth(follow)), nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var last *ExecutionDetail
	err = decodeLines(ctx, c, response.Body, func(l *OutputLine) error {
		switch {
		case l.Error != nil:
			return l.Error
		case l.Execution != nil:
			last = l.Execution
			return nil
		}
		return each(l)
	})
	if err == nil && last == nil {
		err = fmt.Errorf("cannot follow execution %d: the daemon ended the stream: %w", id, ErrNoDaemon)
	}
	if err != nil {
		return last, &BrokenOffError{Err: err}
	}
	return last, nil
}

// BrokenOffError is the error of an answer that had begun: until then there was a daemon.
type BrokenOffError struct{ Err error }

func (e *BrokenOffError) Error() string { return e.Err.Error() }
func (e *BrokenOffError) Unwrap() error { return e.Err }

// StreamExecutions follows executions as they come and change; of the filter Since, Before and Limit do not count.
func (c *Client) StreamExecutions(ctx context.Context, f ExecutionFilter, follow Follow[Execution]) error {
	query := values("action", f.Action, "rule", f.Rule, "pack", f.Pack, "event", number(f.EventID))
	for _, status := range f.Status {
		query.Add("status", string(status))
	}
	return stream(ctx, c, "/executions/stream", query, "execution", follow)
}

// StreamEvents follows events as they are stored; of the filter Since, Before and Limit do not count.
func (c *Client) StreamEvents(ctx context.Context, f EventFilter, follow Follow[Event]) error {
	return stream(ctx, c, "/events/stream", values("trigger", f.Trigger, "source", f.Source), "event", follow)
}

// StreamReconcile follows what changes in force.
func (c *Client) StreamReconcile(ctx context.Context, follow Follow[ReconcileChange]) error {
	return stream(ctx, c, "/reconcile/stream", nil, "reconcile", follow)
}

// StreamSensorLogs follows a sensor's stderr, from what is kept of it.
func (c *Client) StreamSensorLogs(ctx context.Context, ref string, follow Follow[LogLine]) error {
	return stream(ctx, c, "/sensors/"+url.PathEscape(ref)+"/logs/stream", nil, "line", follow)
}

// StreamOutput follows an execution's output from its beginning. The last line has the execution, and ends it.
func (c *Client) StreamOutput(ctx context.Context, id int64, follow Follow[OutputLine]) error {
	ended := errors.New("the execution has ended")
	item := follow.Item
	follow.Item = func(line *OutputLine) error {
		if err := item(line); err != nil || line.Execution == nil {
			return err
		}
		return ended
	}
	err := stream(ctx, c, "/executions/"+strconv.FormatInt(id, 10)+"/output/stream", nil, "output", follow)
	if errors.Is(err, ended) {
		return nil
	}
	return err
}

// query are the filter's query parameters.
func (f ComponentFilter) query() url.Values {
	return values("all", truth(f.All), "pack", f.Pack, "type", f.Type, "state", f.State,
		"trigger", f.Trigger, "action", f.Action)
}

// values makes query parameters of name, value, name, value…, without the empty ones.
func values(pairs ...string) url.Values {
	query := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	return query
}

func number[N int | int64](n N) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(int64(n), 10)
}

func truth(b bool) string {
	if !b {
		return ""
	}
	return "true"
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	return fetch[T](ctx, c, http.MethodGet, path, query, nil)
}

func post[T any](ctx context.Context, c *Client, path string, query url.Values, body any, header ...string) (*T, error) {
	return fetch[T](ctx, c, http.MethodPost, path, query, body, header...)
}

func list[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	items, err := get[[]T](ctx, c, path, query)
	if err != nil {
		return nil, err
	}
	return *items, nil
}

func fetch[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any, header ...string) (*T, error) {
	response, err := c.do(ctx, method, path, query, body, header...)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	// Numbers of parameters and payloads stay as they were written.
	decoder.UseNumber()
	value := new(T)
	if err := decoder.Decode(value); err != nil {
		return nil, c.broken(ctx, err)
	}
	return value, nil
}

// lines reads an answer of JSON lines.
func lines[T any](ctx context.Context, c *Client, path string, query url.Values, each func(*T) error) error {
	return readLines(ctx, c, http.MethodGet, path, query, nil, each)
}

func readLines[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any, each func(*T) error) error {
	response, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return decodeLines(ctx, c, response.Body, each)
}

func decodeLines[T any](ctx context.Context, c *Client, body io.Reader, each func(*T) error) error {
	decoder := json.NewDecoder(bufio.NewReader(body))
	decoder.UseNumber()
	for {
		value := new(T)
		switch err := decoder.Decode(value); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.broken(ctx, err)
		}
		if err := each(value); err != nil {
			return err
		}
	}
}

// do sends a request and gives the answer, if it is a good one. header are names and values in turn.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any, header ...string) (*http.Response, error) {
	target := c.base + prefix + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request: %v", err)
		}
		// A daemon that refuses it would close the connection under what is still being written.
		if len(encoded) > maxBody {
			return nil, tooLarge(strconv.Itoa(len(encoded)))
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %v", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	c.sign(request)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode >= http.StatusOK && response.StatusCode < http.StatusMultipleChoices {
		return response, nil
	}
	defer response.Body.Close()
	return nil, c.refusal(response)
}

// sign adds the token.
func (c *Client) sign(request *http.Request) {
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
}

// unreachable is the error of a request that nobody took.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot reach a daemon at %s: %w", c.name, ErrNoDaemon)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("cannot talk to the daemon at %s: %w", c.name, ErrPlain)
	}
	if denied, ok := errors.AsType[*deniedError](err); ok {
		return fmt.Errorf("cannot reach a daemon: %w", denied)
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("cannot talk to the daemon at %s: %w: %v", c.name, ErrUntrusted, untrusted.Err)
	}
	return fmt.Errorf("cannot reach a daemon at %s: %v: %w", c.name, err, ErrNoDaemon)
}

// broken is the error of an answer that ended early or made no sense.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("cannot read the answer of the daemon at %s: %v", c.name, err)
}

// plainToTLS begins what net/http answers to who speaks plain HTTP where it expects TLS.
const plainToTLS = "Client sent an HTTP request to an HTTPS server"

// refusal turns an answer other than 2xx into an error.
func (c *Client) refusal(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("cannot read the answer of the daemon at %s: %v", c.name, err)
	}
	problem := new(Error)
	if json.Unmarshal(text, problem) == nil && problem.Code != "" {
		return problem
	}
	if response.StatusCode == http.StatusBadRequest && strings.HasPrefix(string(text), plainToTLS) {
		return fmt.Errorf("cannot talk to the daemon at %s: %w", c.name, ErrTLS)
	}
	return fmt.Errorf("cannot use the answer of %s: found HTTP status %s, expected an Attune daemon", c.name, response.Status)
}

// IsNotFound says whether the daemon knows no such thing.
func IsNotFound(err error) bool {
	var problem *Error
	return errors.As(err, &problem) && problem.Code == CodeNotFound
}

// IsForbidden says whether who asks may not.
func IsForbidden(err error) bool {
	var problem *Error
	return errors.As(err, &problem) && problem.Code == CodeForbidden
}

// IsRefusal says whether a daemon answered, and refused.
func IsRefusal(err error) bool {
	var problem *Error
	return errors.As(err, &problem)
}

// IsUnavailable says whether the daemon answers, but cannot do what was asked just now: its database is
// away, or it starts or stops.
func IsUnavailable(err error) bool {
	var problem *Error
	return errors.As(err, &problem) && problem.Code == CodeUnavailable
}
