package api

import (
	"encoding/json"
	"time"

	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Status is how the daemon is doing, on one screen.
type Status struct {
	Version   string    `json:"version"`
	Node      string    `json:"node"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	// Time is the daemon's clock at the answer; ages are counted from it.
	Time time.Time `json:"time"`
	// Ready says that the first scan was applied and the database answers.
	Ready bool `json:"ready"`
	// Problems say why it is not ready, and what is degraded.
	Problems       []string         `json:"problems"`
	StateDirectory string           `json:"state_directory"`
	Socket         string           `json:"socket"`
	URL            string           `json:"url"` // empty: TCP is off
	Packs          []Pack           `json:"packs"`
	Components     ComponentCounts  `json:"components"`
	Sensors        []Sensor         `json:"sensors"`
	Queue          QueueStatus      `json:"queue"`
	Workers        worker.Stats     `json:"workers"`
	Database       DatabaseStatus   `json:"database"`
	Reconcile      ReconcileStatus  `json:"reconcile"`
	Interpreters   []RuntimeProgram `json:"interpreters"`
}

// ComponentCounts are how many components are in force.
type ComponentCounts struct {
	Actions  int `json:"actions"`
	Triggers int `json:"triggers"`
	Sensors  int `json:"sensors"`
	Rules    int `json:"rules"`
}

// QueueStatus is the state of the queue.
type QueueStatus struct {
	Requested int64 `json:"requested"`
	Scheduled int64 `json:"scheduled"`
	Running   int64 `json:"running"`
	// OldestSeconds is how long the oldest execution that is due has waited.
	OldestSeconds float64 `json:"oldest_seconds"`
	// Pause says since when, and because of whom, nothing is claimed; null: all goes on.
	Pause *Pause `json:"pause"`
	// Error says why the queue could not be measured; empty: it was.
	Error string `json:"error,omitempty"`
}

// DatabaseStatus is what the daemon knows of its PostgreSQL.
type DatabaseStatus struct {
	// Private says that the daemon runs the server itself.
	Private       bool   `json:"private"`
	URL           string `json:"url"` // without password
	Version       string `json:"version"`
	SchemaVersion int64  `json:"schema_version"`
	SizeBytes     int64  `json:"size_bytes"`
	PID           int    `json:"pid,omitempty"` // of the private server
	// Error says why the database does not answer; empty: it does.
	Error string `json:"error,omitempty"`
}

// ReconcileStatus is how the loop from files to database is doing.
type ReconcileStatus struct {
	Generation  int64      `json:"generation"`
	LastScan    *time.Time `json:"last_scan"`
	LastApply   *time.Time `json:"last_apply"`
	ScanSeconds float64    `json:"scan_seconds"`
	Mode        string     `json:"mode"`       // apply or plan
	WatchMode   string     `json:"watch_mode"` // inotify or poll
	WatchReason string     `json:"watch_reason,omitempty"`
	// SourceProblem says which packs folder cannot be read; empty: all can.
	SourceProblem string   `json:"source_problem,omitempty"`
	Error         string   `json:"error,omitempty"` // why the last apply failed
	Directories   []string `json:"directories"`
	// Drift are packs whose folder is not what is in force, and is not going to be by itself.
	Drift []reconcile.Drift `json:"drift"`
	// Compared tells how far a scan is that compares very many packs; absent: none does.
	Compared *reconcile.Compared `json:"compared,omitempty"`
}

// RuntimeProgram is an interpreter found on the machine.
type RuntimeProgram struct {
	Name    string `json:"name"` // shell, sh, python or node
	Path    string `json:"path"`
	Version string `json:"version"`
}

// Pack is a pack as the database has it.
type Pack struct {
	Ref         string `json:"ref"`
	Label       string `json:"label"`
	Description string `json:"description"`
	Version     string `json:"version"`
	// Enabled says that it is in force: Present (its files are there), ManifestEnabled (they do not
	// switch it off) and no operator disagree. DisabledBy is that operator, null where nobody did.
	Enabled         bool       `json:"enabled"`
	Present         bool       `json:"present"`
	ManifestEnabled bool       `json:"manifest_enabled"`
	DisabledBy      *string    `json:"disabled_by"`
	DisabledAt      *time.Time `json:"disabled_at"`
	DisabledReason  *string    `json:"disabled_reason"`
	// WhyDisabled is all of that as a sentence; empty: it is in force.
	WhyDisabled string `json:"why_disabled"`
	System      bool   `json:"system"`
	Directory   string `json:"directory"`
	Revision    int    `json:"revision"` // its number, from 1
	Digest      string `json:"digest"`   // of the revision's files
	// PinnedBy is the operator who pinned it to this revision, so that its folder does not rule; null:
	// it does.
	PinnedBy     *string    `json:"pinned_by"`
	PinnedAt     *time.Time `json:"pinned_at"`
	PinnedReason *string    `json:"pinned_reason"`
	// Errors are the findings of the newest scan, warnings included.
	Errors     manifest.Errors `json:"errors"`
	Components ComponentCounts `json:"components"` // in force
	CreatedAt  time.Time       `json:"created_at"`
	UpdatedAt  time.Time       `json:"updated_at"`
}

// PackDetail is a pack with its components and its manifest in normal form.
type PackDetail struct {
	Pack
	Actions  []ComponentState `json:"actions"`
	Triggers []ComponentState `json:"triggers"`
	Sensors  []ComponentState `json:"sensors"`
	Rules    []ComponentState `json:"rules"`
	// Config is the configuration that its sensors and actions get, by key.
	Config []ConfigValue `json:"config"`
	// Drift tells that its folder is not what is in force, and why that stays so; null: it is, or soon.
	Drift    *reconcile.Drift `json:"drift"`
	Manifest json.RawMessage  `json:"manifest"`
	// Signature says whether what is in force is signed with a key that counts now, and by whom; empty: nothing is
	// asked of signatures.
	Signature string `json:"signature"`
	// Environments are what its requirements.txt and package.json ask for, on this node.
	Environments []Environment `json:"environments"`
}

// ConfigValue is one key of a pack's configuration.
type ConfigValue struct {
	Key string `json:"key"`
	// Value is *** where conf_schema calls it secret.
	Value  any  `json:"value"`
	Secret bool `json:"secret"`
	// Origin is "pack.yaml", "attune.toml:12:1" or "default".
	Origin string `json:"origin"`
	// Description is conf_schema's.
	Description string `json:"description"`
}

// ComponentState is a component in the list of its pack.
type ComponentState struct {
	Ref     string `json:"ref"`
	Label   string `json:"label"`
	Enabled bool   `json:"enabled"`
	Present bool   `json:"present"`
	// DisabledBy is the operator who disabled it, null where nobody did; WhyDisabled tells every reason
	// for which it is not in force.
	DisabledBy  *string `json:"disabled_by"`
	WhyDisabled string  `json:"why_disabled"`
	// Held says that its newest version was refused, so that it runs from an older revision.
	Held bool `json:"held"`
}

// Component is what actions, triggers, sensors and rules have in common.
type Component struct {
	Ref         string `json:"ref"`
	Pack        string `json:"pack_ref"`
	Name        string `json:"name"`
	Label       string `json:"label"`
	Description string `json:"description"`
	// Enabled says that it is in force: pack, files, manifest and operator agree. Present,
	// ManifestEnabled and DisabledBy (null: nobody did) are what the last three say.
	Enabled         bool       `json:"enabled"`
	Present         bool       `json:"present"`
	ManifestEnabled bool       `json:"manifest_enabled"`
	DisabledBy      *string    `json:"disabled_by"`
	DisabledAt      *time.Time `json:"disabled_at"`
	DisabledReason  *string    `json:"disabled_reason"`
	// WhyDisabled is all of that as a sentence; empty: it is in force.
	WhyDisabled string   `json:"why_disabled"`
	Tags        []string `json:"tags"`
	File        string   `json:"file"`   // its manifest inside the pack
	Digest      string   `json:"digest"` // of the revision that it runs from
	// Held says that its newest version was refused, so that it runs from an older revision.
	Held bool `json:"held"`
	// Errors are the findings of the newest scan that concern it.
	Errors    manifest.Errors `json:"errors"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
	// Manifest is the whole in normal form, only where one component is shown.
	Manifest json.RawMessage `json:"manifest,omitempty"`
}

// Action is an action with what a caller has to know.
type Action struct {
	Component
	RunnerType     string  `json:"runner_type"`
	EntryPoint     string  `json:"entry_point"`
	TimeoutSeconds float64 `json:"timeout_seconds"` // 0: the daemon's default
	// Parameters is the schema of what it takes; null: it takes nothing.
	Parameters   *manifest.Schema `json:"parameters"`
	OutputSchema *manifest.Schema `json:"output_schema"`
}

// Trigger is a trigger; where one is shown, with its instances.
type Trigger struct {
	Component
	Type             string           `json:"type"`
	ParametersSchema *manifest.Schema `json:"parameters_schema"`
	PayloadSchema    *manifest.Schema `json:"payload_schema"`
	Rules            []string         `json:"rules"` // enabled rules on it
	// WebhookURL is where a webhook is served on this node; empty: it is none, or TCP is off. WebhookToken
	// is its own token, only where it was asked for.
	WebhookURL   string `json:"webhook_url,omitempty"`
	WebhookToken string `json:"webhook_token,omitempty"`
	// Instances are what the enabled rules ask for, only where one trigger is shown.
	Instances []TriggerInstance `json:"instances,omitempty"`
}

// TriggerInstance is a trigger with the parameters that some enabled rule gives it.
type TriggerInstance struct {
	ID         string          `json:"id"`
	Parameters json.RawMessage `json:"parameters"`
	Rules      []string        `json:"rules"`
	AnchorAt   time.Time       `json:"anchor_at"`
	LastDue    *time.Time      `json:"last_due"`
}

// Sensor is a sensor and the state of its process.
type Sensor struct {
	Component
	RunnerType   string   `json:"runner_type"`
	EntryPoint   string   `json:"entry_point"`
	TriggerTypes []string `json:"trigger_types"`
	OnDemand     bool     `json:"on_demand"`
	// State is one of sensor.State's; PID is null while no process runs.
	State           string     `json:"state"`
	PID             *int       `json:"pid"`
	StartedAt       *time.Time `json:"started_at"`
	Restarts        int64      `json:"restarts"`
	LastExit        string     `json:"last_exit"`
	Problem         string     `json:"problem"` // why it is not running
	NextStart       *time.Time `json:"next_start"`
	Events          int64      `json:"events"`
	BadLines        int64      `json:"bad_lines"`
	LastEventAt     *time.Time `json:"last_event_at"`
	EventsPerMinute float64    `json:"events_per_minute"`
	BlockedSeconds  float64    `json:"blocked_seconds"`
	// Cursor is what it gave to be kept last, only where one sensor is shown.
	Cursor json.RawMessage `json:"cursor,omitempty"`
	// Stderr are its last lines, only where one sensor is shown.
	Stderr []string `json:"stderr,omitempty"`
}

// Rule is a rule.
type Rule struct {
	Component
	Trigger string `json:"trigger_ref"`
	// TriggerParameters are what the rule asks of the trigger.
	TriggerParameters map[string]any `json:"trigger_parameters"`
	When              string         `json:"when"` // empty: always
	// Action is the first of Actions, which nearly every rule has alone.
	Action   string       `json:"action_ref"`
	Actions  []RuleAction `json:"actions"`
	ForEach  string       `json:"for_each"`
	Priority int          `json:"priority"`
	// Obstacles tell why it matches nothing, or does not run all of its actions, although it is in force
	// itself: what it names is not.
	Obstacles []Obstacle `json:"obstacles"`
	// Limits are its throttle, debounce, dedupe and breaker, as people would say them.
	Limits []string `json:"limits"`
	// Breaker is null while the breaker is closed, or where there is none.
	Breaker *BreakerState `json:"breaker"`
	// WaitingForQuiet counts the keys for which debounce has an event waiting, only where one rule is shown.
	WaitingForQuiet int `json:"waiting_for_quiet,omitempty"`
}

// Obstacle is a component that a rule names and that is not in force.
type Obstacle struct {
	Kind manifest.Kind `json:"kind"` // trigger or action
	Ref  string        `json:"ref"`
	// Why is the reason as a sentence, and Hint what brings it back; empty: nothing that fits in a line.
	Why  string `json:"why"`
	Hint string `json:"hint"`
}

// RuleAction is an action that a rule queues, and its parameters with their templates.
type RuleAction struct {
	Action     string         `json:"action_ref"`
	Parameters map[string]any `json:"parameters"`
}

// Event is a stored event.
type Event = store.Event

// Enforcement is what one rule made of one event.
type Enforcement = store.Enforcement

// EventDetail is an event with what followed.
type EventDetail struct {
	Event
	Enforcements []Enforcement `json:"enforcements"`
	// Rules say what each rule on the trigger made of it, those that left nothing too.
	Rules []RuleVerdict `json:"rules"`
	// MoreRules are further rules that did not match.
	MoreRules int `json:"more_rules,omitempty"`
}

// Fire asks for an event of a trigger.
type Fire struct {
	// Payload of the event. Defaults to {}.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Instance is the trigger instance that it is meant for. Defaults to every instance.
	Instance string `json:"instance,omitempty"`
	// EventID makes a repetition harmless: of two with one id the second changes nothing.
	EventID string `json:"event_id,omitempty"`
}

// Fired is the event that was stored and what followed in the same transaction.
type Fired struct {
	EventDetail
	// Duplicate says that an event of this event_id was there already: it is the one given here.
	Duplicate  bool    `json:"duplicate"`
	Executions []int64 `json:"executions"`
}

// Execution is an execution as lists have it, without outputs and result.
type Execution = store.Execution

// Attempt is one start of an execution.
type Attempt = store.Attempt

// ExecutionDetail is an execution with its outputs, its result and its attempts.
type ExecutionDetail struct {
	Execution
	Attempts []Attempt `json:"attempts"`
}

// NewExecution asks for an action to be run.
type NewExecution struct {
	Action string `json:"action_ref"`
	// Parameters are checked against the action's schema. Defaults to {}.
	Parameters map[string]any `json:"parameters,omitempty"`
	// Secrets name the secret that belongs at a JSON pointer into the parameters; it is read when the
	// action starts, and stored nowhere.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Priority goes before lower ones of the same pack. Defaults to the action's.
	Priority *int `json:"priority,omitempty"`
	// DueAt is when to start it. Defaults to now.
	DueAt *time.Time `json:"due_at,omitempty"`
	// TimeoutSeconds bounds the run. Defaults to the action's, or else the daemon's.
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
	// TimeoutTotalSeconds bounds all attempts together, pauses included. Defaults to the action's.
	TimeoutTotalSeconds float64 `json:"timeout_total_seconds,omitempty"`
	// Retry is instead of the action's. Defaults to the action's.
	Retry *RetryPolicy `json:"retry,omitempty"`
}

// Cancelled tells what a cancel found.
type Cancelled struct {
	ID int64 `json:"id"`
	// Status is the one found: a waiting execution is cancelled at once, a running one soon, a final
	// one not at all.
	Status store.Status `json:"status"`
}

// OutputLine is one line of the stream of an execution's output: text as it came, or at the end the
// execution.
type OutputLine struct {
	Stream    string           `json:"stream,omitempty"` // stdout or stderr
	Text      string           `json:"text,omitempty"`
	Attempt   int              `json:"attempt,omitempty"` // whose it is; without text: a further one begins
	Execution *ExecutionDetail `json:"execution,omitempty"`
	Error     *Error           `json:"error,omitempty"` // the stream ended before the execution did
}

// LogLine is one line of a sensor's stderr.
type LogLine struct {
	Text string `json:"text"`
}

// Plan is what an apply would do now.
type Plan = reconcile.Plan

// Report is what a reload found and did.
type Report = reconcile.Report

// ComponentFilter narrows lists of packs, actions, triggers, sensors and rules. Zero fields do not
// filter; a field that the kind does not have is ignored by it.
type ComponentFilter struct {
	All     bool   // the disabled and the vanished too
	Pack    string // not of packs
	Type    string // of triggers
	State   string // of sensors
	Trigger string // of rules, and of sensors: one that they can fire
	Action  string // of rules
}

// EventFilter narrows lists of events. Zero fields do not filter.
type EventFilter struct {
	Trigger string
	Source  string
	Since   string // "90s", "1h", "7d" before now, or an RFC 3339 time
	Before  int64  // ids below this one
	Limit   int    // Defaults to 100; at most 1000.
}

// ExecutionFilter narrows lists of executions. Zero fields do not filter.
type ExecutionFilter struct {
	Action  string
	Rule    string
	Pack    string
	Status  []store.Status
	EventID int64
	Since   string // "90s", "1h", "7d" before now, or an RFC 3339 time
	Before  int64  // ids below this one
	Limit   int    // Defaults to 100; at most 1000.
}
