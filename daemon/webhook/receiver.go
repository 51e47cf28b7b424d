package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/daemon/pace"
	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// Path is where webhooks live: Path + pack + "/" + trigger.
	Path = "/webhooks/"

	// source is that of the events.
	source = "webhook"

	// MaxBody bounds a body, in bytes: what the database should hold in one row.
	MaxBody = 1 << 20

	// bodyTimeout is how long a body may take: the largest has to come with 100 KiB a second.
	bodyTimeout = 10 * time.Second

	// commitTimeout is how long a sender waits for the database: providers give up after 10 to 30 s, and
	// come again.
	commitTimeout = 8 * time.Second

	// refusalTime is how long a refusal takes from the last byte of the request on, whatever the reason:
	// much longer than any check.
	refusalTime = 100 * time.Millisecond

	// tellEvery is how often the log tells of refusals of one kind.
	tellEvery = time.Minute
)

// Catalogs gives the newest snapshot that is at least of the generation (0: whatever is newest).
type Catalogs interface {
	Catalog(ctx context.Context, generation int64) (*store.Catalog, error)
}

// Events takes an event and waits until it is stored; rule.Intake is it.
type Events interface {
	Submit(ctx context.Context, e store.NewEvent) (store.StoredEvent, error)
}

// Options are what a Receiver needs.
type Options struct {
	Catalogs   Catalogs
	Events     Events
	Tokens     Tokens
	Secret     func(name string) (string, error)
	PackConfig func(pack string) map[string]any // the merged configuration of a pack
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Receiver answers the requests under Path.
type Receiver struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	limits  *limits
	keys    *keyring

	mu   sync.Mutex
	told map[[2]string]*telling
}

// telling is what the log said of one kind of refusal.
type telling struct {
	last   time.Time
	silent int // refusals since
}

var _ http.Handler = (*Receiver)(nil)

// New makes a Receiver.
func New(opts Options) *Receiver {
	return &Receiver{
		opts: opts, log: opts.Logger.With("component", "webhook"), metrics: newMetrics(opts.Registerer),
		limits: newLimits(), keys: &keyring{source: opts.Tokens}, told: map[[2]string]*telling{},
	}
}

// TokensChanged has the next request read the triggers' tokens anew.
func (v *Receiver) TokensChanged() { v.keys.forget() }

// request is one request on its way.
type request struct {
	*http.Request
	ref     string // what it asks for
	trigger string // the same where it is a webhook in force; else empty
	remote  string
	body    []byte
	came    time.Time // its last byte
}

// ServeHTTP answers one request.
func (v *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ref, _ := strings.CutPrefix(r.URL.Path, Path)
	req := &request{Request: r, ref: strings.Replace(ref, "/", ".", 1), remote: pace.Remote(r)}
	switch {
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
		v.turnAway(w, req, outcomeBrowser, http.StatusForbidden, "cannot take a webhook from a browser")
		return
	case !v.limits.rates.Allow(sender{req.ref, pace.Block(req.remote)}, time.Now()):
		v.turnAway(w, req, outcomeLimited, http.StatusTooManyRequests, "cannot take so many requests at once; come again later")
		return
	}
	leave, ok := v.limits.places.Enter(req.remote)
	if !ok {
		v.turnAway(w, req, outcomeBusy, http.StatusServiceUnavailable, "cannot take so many requests at once; come again later")
		return
	}
	defer leave()
	if !v.read(w, req) {
		return
	}
	v.receive(w, req)
}

// read takes the body, within its size and its time; false: the request is answered.
func (v *Receiver) read(w http.ResponseWriter, req *request) bool {
	if req.ContentLength > MaxBody {
		// What is left unread would come anyway.
		w.Header().Set("Connection", "close")
		v.turnAway(w, req, outcomeTooLarge, http.StatusRequestEntityTooLarge, fmt.Sprintf("cannot take a body of more than %d bytes", MaxBody))
		return false
	}
	// A recorder of a test knows no deadlines.
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, MaxBody))
	if err == nil {
		// The connection is still listened to, for the sender's going away: that has no end.
		_ = controller.SetReadDeadline(time.Time{})
		req.body, req.came = body, time.Now()
		return true
	}
	w.Header().Set("Connection", "close")
	if _, is := errors.AsType[*http.MaxBytesError](err); is {
		v.turnAway(w, req, outcomeTooLarge, http.StatusRequestEntityTooLarge, fmt.Sprintf("cannot take a body of more than %d bytes", MaxBody))
		return false
	}
	status := http.StatusBadRequest
	if errors.Is(err, os.ErrDeadlineExceeded) {
		status = http.StatusRequestTimeout
	}
	v.turnAway(w, req, outcomeSlow, status, "cannot read the body: it did not come as a whole in time")
	return false
}

// receive answers a request whose body is there.
func (v *Receiver) receive(w http.ResponseWriter, req *request) {
	ctx := req.Context()
	// Both are asked for whatever the request names: what is away is away for everybody.
	catalog, err := v.opts.Catalogs.Catalog(ctx, 0)
	if err != nil {
		v.unavailable(w, req, err)
		return
	}
	tokens, err := v.keys.tokens(ctx)
	if err != nil {
		v.unavailable(w, req, err)
		return
	}
	trigger := webhookOf(catalog, req.ref)
	if trigger == nil {
		v.refuse(w, req, reasonUnknown, nil)
		return
	}
	req.trigger = trigger.Ref
	id, reason, err := v.believe(req, trigger, tokens[trigger.Ref])
	if reason != "" {
		v.refuse(w, req, reason, err)
		return
	}
	if challenge := slackChallenge(trigger.Verify, req.body); challenge != "" {
		v.count(req, outcomeChallenge)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, challenge)
		return
	}
	v.store(w, req, trigger, id)
}

// webhookOf gives a webhook in force; nil: there is none of that name.
func webhookOf(catalog *store.Catalog, ref string) *manifest.Trigger {
	record := catalog.Triggers[ref]
	if record == nil || !record.Enabled {
		return nil
	}
	trigger, ok := record.Spec.(*manifest.Trigger)
	if !ok || trigger.Type != manifest.TriggerWebhook {
		return nil
	}
	return trigger
}

// believe checks who sent a request; err says why there is no secret to do it with.
func (v *Receiver) believe(req *request, trigger *manifest.Trigger, hashes [][]byte) (id, reason string, err error) {
	verify := trigger.Verify
	switch {
	case verify == nil || verify.Type == manifest.VerifyToken:
		return deliveryID(verify, req.Header, req.body), checkToken(req.Header, hashes), nil
	case verify.Type == manifest.VerifyNone:
		return deliveryID(verify, req.Header, req.body), "", nil
	}
	secrets, err := v.secrets(trigger)
	id, reason = check(verify, secrets, req.Header, req.body, req.came)
	return id, reason, err
}

// secrets are those that a signature may be made with: a line each, so that an old one and its successor
// can both be good for a while.
func (v *Receiver) secrets(trigger *manifest.Trigger) ([]string, error) {
	var text string
	if name, path := trigger.Verify.Reference(); name != "" {
		var err error
		if text, err = v.opts.Secret(name); err != nil {
			return nil, err
		}
	} else {
		var value any = v.opts.PackConfig(trigger.Pack)
		for _, key := range path {
			object, _ := value.(map[string]any)
			value = object[key]
		}
		text, _ = value.(string)
		if name := manifest.ConfigSecret(value); name != "" {
			var err error
			if text, err = v.opts.Secret(name); err != nil {
				return nil, err
			}
		}
	}
	var secrets []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			secrets = append(secrets, line)
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%s is empty", trigger.Verify.Secret)
	}
	return secrets, nil
}

// slackChallenge is what Slack wants to hear when an address is given to it.
func slackChallenge(verify *manifest.Verify, body []byte) string {
	if verify == nil || verify.Type != manifest.VerifySlack || field(body, "type") != "url_verification" {
		return ""
	}
	return field(body, "challenge")
}

// store commits the event and answers when it is.
func (v *Receiver) store(w http.ResponseWriter, req *request, trigger *manifest.Trigger, id string) {
	event := store.NewEvent{Trigger: trigger.Ref, Source: source, EventID: id}
	event.Payload, event.Problem = payloadOf(req.Request, req.body, req.remote, trigger.Verify)
	if event.Problem != "" && trigger.OnInvalid == "refuse" {
		v.turnAway(w, req, outcomeInvalid, http.StatusUnprocessableEntity, "cannot take the event: "+event.Problem)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), commitTimeout)
	defer cancel()
	stored, err := v.opts.Events.Submit(ctx, event)
	switch {
	case err == nil:
	case errors.Is(err, rule.ErrInvalidPayload):
		v.turnAway(w, req, outcomeInvalid, http.StatusUnprocessableEntity, err.Error())
		return
	case errors.Is(err, rule.ErrUnknownTrigger), errors.Is(err, rule.ErrDisabledTrigger):
		v.refuse(w, req, reasonUnknown, nil) // it went meanwhile
		return
	default:
		v.unavailable(w, req, err)
		return
	}
	outcome := outcomeAccepted
	if stored.Duplicate {
		outcome = outcomeDuplicate
	}
	v.count(req, outcome)
	answer(w, http.StatusAccepted, "application/json", accepted{ID: stored.ID, Duplicate: stored.Duplicate})
}

// accepted is the answer to who is believed.
type accepted struct {
	// ID is the event's number: `attune why event ID` tells what became of it.
	ID int64 `json:"id"`
	// Duplicate says that the delivery came before.
	Duplicate bool `json:"duplicate"`
}

// refuse answers who is not believed: always the same, at the same time.
func (v *Receiver) refuse(w http.ResponseWriter, req *request, reason string, cause error) {
	v.count(req, reason)
	v.tell(req, reason, cause)
	timer := time.NewTimer(refusalTime - time.Since(req.came))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	problem(w, http.StatusUnauthorized, "cannot tell that this request is meant for a webhook here")
}

// unavailable answers while nothing can be stored. What was believed before is no part of it.
func (v *Receiver) unavailable(w http.ResponseWriter, req *request, err error) {
	if req.Context().Err() != nil {
		return // nobody listens any more
	}
	v.turnAwayFor(w, req, outcomeUnavailable, http.StatusServiceUnavailable, "cannot store an event now; send it again", err)
}

// turnAway answers for a reason that has nothing to do with who sends.
func (v *Receiver) turnAway(w http.ResponseWriter, req *request, outcome string, status int, detail string) {
	v.turnAwayFor(w, req, outcome, status, detail, nil)
}

// turnAwayFor is turnAway with a cause, which the log alone has.
func (v *Receiver) turnAwayFor(w http.ResponseWriter, req *request, outcome string, status int, detail string, cause error) {
	v.count(req, outcome)
	v.tell(req, outcome, cause)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	problem(w, status, detail)
}

func (v *Receiver) count(req *request, outcome string) {
	v.metrics.requests.WithLabelValues(req.trigger, outcome).Inc()
}

// tell logs refusals, one line a minute for each kind: a prober must not fill the log.
func (v *Receiver) tell(req *request, reason string, cause error) {
	v.mu.Lock()
	kind := [2]string{req.trigger, reason}
	t := v.told[kind]
	if t == nil {
		t = &telling{}
		v.told[kind] = t
	}
	if !t.last.IsZero() && time.Since(t.last) < tellEvery {
		t.silent++
		v.mu.Unlock()
		return
	}
	silent := t.silent
	*t = telling{last: time.Now()}
	v.mu.Unlock()
	const longest = 200 // bytes of a stranger's words
	line := []any{"trigger", req.ref[:min(len(req.ref), longest)], "reason", reason, "remote", req.remote, "since_last", silent}
	if cause != nil {
		line = append(line, "err", cause)
	}
	v.log.Warn("webhook refused", line...)
}

// problem answers with a problem document.
func problem(w http.ResponseWriter, status int, detail string) {
	answer(w, status, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

func answer(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	// Whoever has gone away does not hear it.
	_ = json.NewEncoder(w).Encode(body)
}

// URL is the address of a trigger's webhook below that of the server.
func URL(server, trigger string) string {
	pack, name, _ := strings.Cut(trigger, ".")
	return server + Path + pack + "/" + name
}
