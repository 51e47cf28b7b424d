package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/attune-io/attune/daemon/webhook"
	"github.com/attune-io/attune/reconcile/manifest"
)

// The paths outside of the API of programs.
const (
	pathMetrics  = "/metrics"
	pathDocs     = prefix + "/docs"
	pathDocument = prefix + "/openapi.json"
	pathHealthy  = "/-/healthy"
	pathReady    = "/-/ready"
)

// prefix is where the API of programs lives.
const prefix = "/api/v1"

// handler is everything that the daemon serves.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathHealthy, s.healthy)
	mux.HandleFunc("GET "+pathReady, s.ready)
	if s.opts.Gatherer != nil {
		mux.Handle("GET "+pathMetrics, squeezed(promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{
			ErrorLog: promLog{s.log}, ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
		})))
	}
	if s.opts.Webhooks != nil {
		mux.Handle("POST "+webhook.Path, s.opts.Webhooks)
	}
	api := humago.NewWithPrefix(mux, prefix, s.document())
	api.UseMiddleware(s.admit())
	s.routes(api)
	tellNull(api.OpenAPI().Components.Schemas)
	tellTags(api.OpenAPI())
	mux.HandleFunc("GET "+pathDocs, s.page(api.OpenAPI()))
	return s.wrap(mux)
}

// squeezed compresses for who asks for it, as fast as it goes: promhttp's own gzip took a quarter of a scrape's time for
// an answer that is smaller by a fiftieth, and Prometheus takes no other encoding.
func squeezed(next http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.CompressionLevel(gzip.BestSpeed), gzhttp.EnableZstd(false))
	if err != nil {
		panic(err) // of the options above
	}
	return wrap(next)
}

// routes is the API as one table.
func (s *Server) routes(api huma.API) {
	get, post := http.MethodGet, http.MethodPost

	route(api, get, "/status", need{ScopeRead, ofAll}, "status", "How the daemon is doing", s.status)

	route(api, get, "/examination", need{ScopeRead, ofAll}, "examine", "What the daemon finds out for doctor: its database, and how it holds its children", s.examine)

	route(api, get, "/packs", need{ScopeRead, ofChecked}, "list-packs", "List packs", s.listPacks)
	route(api, get, "/packs/{ref}", need{ScopeRead, ofRef}, "show-pack", "Show a pack", s.showPack)
	route(api, get, "/packs/{ref}/revisions", need{ScopeRead, ofRef}, "list-revisions", "List a pack's revisions, newest first", s.listRevisions)
	route(api, get, "/packs/{ref}/diff", need{ScopeRead, ofRef}, "diff", "What lies between two states of a pack's files", s.difference)
	route(api, post, "/packs/{ref}/rollback", need{ScopeAdmin, ofRef}, "rollback", "Put an older revision back into force, and pin it", s.rollback)
	route(api, post, "/packs/{ref}/unpin", need{ScopeAdmin, ofRef}, "unpin", "Let a pack's folder rule again", s.unpin)
	route(api, get, "/plan", need{ScopeRead, ofChecked}, "plan", "What an apply would do now", s.plan)
	routeStream(api, "/reconcile/stream", need{ScopeRead, ofAll}, "stream-reconcile", "Follow what changes in force, and how the loop from files to database is doing", "reconcile", ReconcileChange{}, s.streamReconcile)
	route(api, post, "/reload", need{ScopeAdmin, ofChecked}, "reload", "Scan all packs now and apply what changed", s.reload)

	route(api, post, "/enable", need{ScopeAdmin, ofChecked}, "enable", "Take back an operator's disable", s.enable)
	route(api, post, "/disable", need{ScopeAdmin, ofChecked}, "disable", "Switch packs or components off, whatever their files say", s.disable)
	route(api, post, "/pause", need{ScopeAdmin, ofAll}, "pause", "Have no node begin anything more, until somebody resumes", s.pause)
	route(api, post, "/resume", need{ScopeAdmin, ofAll}, "resume", "End a pause", s.resume)
	route(api, get, "/audit", need{ScopeAdmin, ofAll}, "list-audit", "List changes that people made, newest first", s.listAudit)

	route(api, get, "/tokens", need{ScopeAdmin, ofAll}, "list-tokens", "List tokens by name", s.listTokens)
	route(api, post, "/tokens", need{ScopeAdmin, ofAll}, "create-token", "Make a token, which is shown this once", s.createToken)
	route(api, post, "/tokens/{name}/revoke", need{ScopeAdmin, ofAll}, "revoke-token", "End a token", s.revokeToken)

	route(api, get, "/actions", need{ScopeRead, ofChecked}, "list-actions", "List actions", s.listActions)
	route(api, get, "/actions/{ref}", need{ScopeRead, ofRef}, "show-action", "Show an action and the schema of its parameters", s.showAction)

	route(api, get, "/triggers", need{ScopeRead, ofChecked}, "list-triggers", "List triggers", s.listTriggers)
	route(api, get, "/triggers/{ref}", need{ScopeRead, ofRef}, "show-trigger", "Show a trigger and its instances", s.showTrigger)
	route(api, post, "/triggers/{ref}/fire", need{ScopeRun, ofRef}, "fire-trigger", "Store an event of a trigger", s.fireTrigger)

	route(api, post, "/triggers/{ref}/token", need{ScopeAdmin, ofRef}, "webhook-token", "Show a webhook's own token, and make it where there is none", s.webhookToken)
	route(api, post, "/triggers/{ref}/rotate-token", need{ScopeAdmin, ofRef}, "rotate-webhook-token", "Replace a webhook's own token", s.rotateWebhookToken)

	route(api, get, "/sensors", need{ScopeRead, ofChecked}, "list-sensors", "List sensors and their processes", s.listSensors)
	route(api, get, "/sensors/{ref}", need{ScopeRead, ofRef}, "show-sensor", "Show a sensor and the last lines of its stderr", s.showSensor)
	route(api, post, "/sensors/{ref}/restart", need{ScopeRun, ofRef}, "restart-sensor", "Restart a sensor now", s.restartSensor)
	routePostLines(api, "/sensors/{ref}/test", need{ScopeRun, ofRef}, "test-sensor", "Run a sensor for as long as somebody reads, and tell what it would emit; nothing is stored", SensorTrialLine{}, s.trySensor)
	routeStream(api, "/sensors/{ref}/logs/stream", need{ScopeRead, ofRef}, "stream-sensor-logs", "Follow a sensor's stderr, from what is kept of it", "line", LogLine{}, s.streamSensorLogs)
	routeLines(api, "/sensors/{ref}/logs", need{ScopeRead, ofRef}, "sensor-logs", "The last lines of a sensor's stderr, and what comes", LogLine{}, s.sensorLogs)

	route(api, get, "/rules", need{ScopeRead, ofChecked}, "list-rules", "List rules", s.listRules)
	route(api, get, "/rules/{ref}", need{ScopeRead, ofRef}, "show-rule", "Show a rule", s.showRule)

	route(api, post, "/rules/{ref}/reset", need{ScopeAdmin, ofRef}, "reset-rule", "Close a rule's breaker, and have its throttle and dedupe begin anew", s.resetRule)
	route(api, post, "/rules/{ref}/test", need{ScopeAdmin, ofAll}, "test-rule", "What a rule, applied or not, would make of an event", s.tryRule)
	routePostLines(api, "/rules/{ref}/test-since", need{ScopeAdmin, ofAll}, "test-rule-since", "How an edited rule differs from the one in force, over the stored events", TrialLine{}, s.tryRuleSince)

	route(api, get, "/events", need{ScopeRead, ofChecked}, "list-events", "List events, newest first", s.listEvents)
	routeStream(api, "/events/stream", need{ScopeRead, ofChecked}, "stream-events", "Follow events as they are stored", "event", Event{}, s.streamEvents)
	route(api, get, "/events/{id}", need{ScopeRead, ofChecked}, "show-event", "Show an event and what followed", s.showEvent)
	route(api, get, "/events/{id}/why", need{ScopeRead, ofAll}, "why-event", "The whole chain around an event", s.whyEvent)
	route(api, post, "/events/{id}/replay", need{ScopeRun, ofChecked}, "replay-event", "Store an event anew, under the rules of today", s.replayEvent)

	route(api, get, "/executions", need{ScopeRead, ofChecked}, "list-executions", "List executions, newest first", s.listExecutions)
	route(api, post, "/executions", need{ScopeRun, ofChecked}, "create-execution", "Queue an action", s.createExecution)
	route(api, post, "/executions/batch", need{ScopeRun, ofChecked}, "create-executions", "Queue many actions at once", s.createExecutions)
	route(api, post, "/executions/ends", need{ScopeRead, ofAll}, "execution-ends", "Wait until one of many executions ends", s.executionEnds)
	route(api, post, "/executions/cancel", need{ScopeRun, ofChecked}, "cancel-executions", "Cancel the executions that a filter names", s.cancelExecutions)
	route(api, post, "/executions/rerun", need{ScopeRun, ofChecked}, "rerun-executions", "Repeat the executions that a filter names", s.rerunExecutions)
	routeStream(api, "/executions/stream", need{ScopeRead, ofChecked}, "stream-executions", "Follow executions as they come and change", "execution", Execution{}, s.streamExecutions)
	route(api, get, "/executions/{id}", need{ScopeRead, ofChecked}, "show-execution", "Show an execution, its outputs and its result", s.showExecution)
	route(api, get, "/executions/{id}/why", need{ScopeRead, ofAll}, "why-execution", "The whole chain that led to an execution", s.whyExecution)
	route(api, post, "/executions/{id}/cancel", need{ScopeRun, ofChecked}, "cancel-execution", "Cancel an execution", s.cancelExecution)
	route(api, post, "/executions/{id}/rerun", need{ScopeRun, ofChecked}, "rerun-execution", "Repeat an execution", s.rerunExecution)
	routeStream(api, "/executions/{id}/output/stream", need{ScopeRead, ofChecked}, "stream-execution-output", "Follow an execution's output from its beginning; the last event has the execution", "output", OutputLine{}, s.streamOutput)
	routeLines(api, "/executions/{id}/output", need{ScopeRead, ofChecked}, "execution-output", "An execution's output as it comes, and the execution at its end", OutputLine{}, s.executionOutput)
}

// document configures the OpenAPI document, which is served beside the routes that it is made of.
func (s *Server) document() huma.Config {
	config := huma.DefaultConfig("Attune", s.opts.Info.Version)
	schemas := huma.NewMapRegistry("#/components/schemas/", schemaName)
	schemas.RegisterTypeAlias(reflect.TypeFor[manifest.Schema](), reflect.TypeFor[map[string]any]())
	// What huma refuses itself goes out as our Error as well: see toProblem.
	schemas.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[Error]())
	config.Components.Schemas = schemas
	config.Servers = []*huma.Server{{URL: prefix}}
	config.Info.Description = "Over the unix socket, for whoever may open it, and over TCP, for whoever has a token: each operation says which " +
		"scope it wants. read sees, run also starts and stops work, admin also changes what is in force and who may come in."
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{schemeToken: {
		Type: "http", Scheme: "bearer", Description: "A token that `attune token create` made. The unix socket wants none.",
	}}
	config.OpenAPIPath = "/openapi"
	config.DocsPath = ""
	config.SchemasPath = ""
	config.RejectUnknownQueryParameters = true
	// Without these hooks answers stay what they are: no $schema key is added to them.
	config.CreateHooks = nil
	config.Transformers = []huma.Transformer{toProblem}
	return config
}

// schemaName names the types in the document: two packages have an Error.
func schemaName(t reflect.Type, hint string) string {
	if t == reflect.TypeFor[manifest.Error]() || t == reflect.TypeFor[*manifest.Error]() {
		return "Finding"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// answer is what a handler gives back.
type answer[T any] struct{ Body T }

// none is the input of a route that takes none.
type none struct{}

// byRef is the input of a route on one named thing.
type byRef struct {
	Ref string `path:"ref" doc:"The ref: pack, or pack.name"`
}

// byID is the input of a route on one numbered thing.
type byID struct {
	ID int64 `path:"id" minimum:"1"`
}

// route adds a route whose answer is JSON. The handler's errors are *Error, or they are internal.
func route[I, O any](api huma.API, method, path string, wants need, id, summary string, handle func(context.Context, *I) (O, error)) {
	huma.Register(api, operation(method, path, wants, id, summary), func(ctx context.Context, input *I) (*answer[O], error) {
		body, err := handle(ctx, input)
		if err != nil {
			return nil, problemOf(ctx, err)
		}
		return &answer[O]{Body: body}, nil
	})
}

// routeLines adds a route whose answer is JSON lines, each of the type of line. The handler's errors are
// of the time before the first line.
func routeLines[I, L any](api huma.API, path string, wants need, id, summary string, line L, handle func(context.Context, *I) (func(*lineWriter), error)) {
	registerLines(api, operation(http.MethodGet, path, wants, id, summary), line, handle)
}

// routePostLines is routeLines for a question that has a body.
func routePostLines[I, L any](api huma.API, path string, wants need, id, summary string, line L, handle func(context.Context, *I) (func(*lineWriter), error)) {
	registerLines(api, operation(http.MethodPost, path, wants, id, summary), line, handle)
}

func registerLines[I, L any](api huma.API, op huma.Operation, line L, handle func(context.Context, *I) (func(*lineWriter), error)) {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "JSON lines",
		Content: map[string]*huma.MediaType{linesType: {
			Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(line), true, ""),
		}},
	}}
	registerWriting(api, op, newLineWriter, handle)
}

// registerWriting registers an operation whose answer is written by a W, bit by bit. The handler's errors are of the time
// before the first bit.
func registerWriting[I, W any](api huma.API, op huma.Operation, writer func(http.ResponseWriter) W, handle func(context.Context, *I) (func(W), error)) {
	huma.Register(api, op, func(ctx context.Context, input *I) (*huma.StreamResponse, error) {
		write, err := handle(ctx, input)
		if err != nil {
			return nil, problemOf(ctx, err)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			_, w := humago.Unwrap(hctx)
			write(writer(w))
		}}, nil
	})
}

func operation(method, path string, wants need, id, summary string) huma.Operation {
	op := huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary}
	wants.demand(&op)
	return op
}
