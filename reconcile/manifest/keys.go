package manifest

import (
	"maps"
	"math"
	"slices"
)

// Key is one key of a manifest: what it is called, what may stand there, and what it means. The tables of
// keys are what the decoders go by, what the JSON Schemas for editors are made of, and what the guide for
// pack authors has to show.
type Key struct {
	Name string
	// Aliases mean the same.
	Aliases []string
	// Doc is one or two sentences for whoever writes the manifest.
	Doc string
	// Default is what absence means, as it would be written; empty: there is no such value.
	Default string
	// Required says that a manifest without it is refused.
	Required bool

	shape shape
}

// Keys lists the keys of a kind of manifest, in the order in which people write them.
func Keys(kind Kind) []Key {
	return slices.Clone(tableOf(kind))
}

// Keys lists the keys of the mapping that may stand under this one; nil where there is none.
func (k Key) Keys() []Key { return slices.Clone(subKeys(k.shape)) }

func tableOf(kind Kind) []Key {
	switch kind {
	case KindPack:
		return packKeys
	case KindAction:
		return actionKeys
	case KindTrigger:
		return triggerKeys
	case KindSensor:
		return sensorKeys
	case KindRule:
		return ruleKeys
	default:
		panic("manifest: no manifest of kind " + string(kind))
	}
}

// findKey gives the key of that canonical name, or nil.
func findKey(keys []Key, name string) *Key {
	for i := range keys {
		if keys[i].Name == name {
			return &keys[i]
		}
	}
	return nil
}

// keyNames lists every spelling of the keys.
func keyNames(keys []Key) []string {
	var names []string
	for _, k := range keys {
		names = append(append(names, k.Name), k.Aliases...)
	}
	return names
}

var packKeys = []Key{
	{Name: "ref", Doc: "The pack's name among packs: lower-case letters, digits, _ and -. The folder is named alike.", Default: "the folder's name", shape: textShape{pattern: packRefPattern.String()}},
	{Name: "label", Doc: "The name that people read.", shape: textShape{}},
	{Name: "name", Doc: "Stands in for label where that is absent.", shape: textShape{}},
	{Name: "description", Doc: "What the pack is for.", shape: textShape{}},
	{Name: "version", Doc: "The pack's semantic version, with three numbers, such as 1.2.0. Quote it.", Default: "0.0.0", shape: textShape{pattern: semverPattern}},
	{Name: "author", Doc: "Who wrote it.", shape: textShape{}},
	{Name: "email", Doc: "Where its author can be reached.", shape: textShape{}},
	{Name: "system", Aliases: []string{"is_standard"}, Doc: "Others rely on this pack: `attune pack disable` wants --force.", Default: "false", shape: flagShape{}},
	{Name: "enabled", Doc: "false switches the whole pack off.", Default: "true", shape: flagShape{}},
	{Name: "conf_schema", Aliases: []string{"config_schema"}, Doc: "The schema of the pack's configuration; a file config.schema.yaml does as well.", shape: schemaShape{}},
	{Name: "config", Doc: "The pack's own configuration, over which the operator's [packs.config.<ref>] in attune.toml is laid.", shape: treeShape{}},
	{Name: "attune", Doc: "The versions of Attune that the pack works with, such as \">= 0.1\".", Default: "any", shape: rangeShape{}},
	{Name: "dependencies", Doc: "The packs that this one needs, each with or without a range of versions, such as \"core >= 1.2, < 3\".", shape: dependenciesShape{}},
	{Name: "runtime_deps", Doc: "The runtimes that the pack needs, such as \"python3 >= 3.8\". A range holds for each of its scripts that names none.", shape: listShape{requirementShape{}}},
	{Name: "tags", Aliases: []string{"keywords"}, Doc: "Words to find it by.", shape: listShape{textShape{}}},
	{Name: "meta", Aliases: []string{"metadata"}, Doc: "Anything; it is kept and not looked at.", shape: treeShape{}},
	{Name: "license", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "homepage", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "repository", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "contributors", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "icon", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "testing", Doc: "Kept for tools.", shape: keptShape{}},
	{Name: "examples", Doc: "Kept for people.", shape: keptShape{}},
}

// headerKeys are what every component has.
var headerKeys = []Key{
	{Name: "name", Doc: "The component's name in its pack. Its ref is the pack's, a dot, and this.", Default: "what ref says, else the file's name", shape: textShape{}},
	{Name: "ref", Doc: "<pack>.<name>; needed by nobody where name is there.", shape: textShape{}},
	{Name: "label", Doc: "The name that people read.", shape: textShape{}},
	{Name: "description", Doc: "What it does, in a sentence or two.", shape: textShape{}},
	{Name: "enabled", Doc: "false switches it off.", Default: "true", shape: flagShape{}},
	{Name: "tags", Doc: "Words to find it by.", shape: listShape{textShape{}}},
	{Name: "pack", Doc: "The pack's ref once more, for packs made for other systems; it has to agree.", shape: textShape{}},
	{Name: "pack_ref", Doc: "The same as pack.", shape: textShape{}},
	{Name: "meta", Doc: "Anything; it is kept and not looked at.", shape: keptShape{}},
	{Name: "examples", Doc: "Kept for people.", shape: keptShape{}},
	{Name: "testing", Doc: "Kept for tools.", shape: keptShape{}},
}

// runnerKeys are how an action or a sensor is started.
var runnerKeys = []Key{
	{Name: "runner_type", Doc: "What starts the script: shell (bash), sh, python, node, or native for what the kernel can start itself.", Default: "by the script's extension", shape: choiceShape{runnerWords()}},
	{Name: "runtime_version", Doc: "Which interpreters will do, such as \">= 3.9\".", Default: "what the pack's runtime_deps say", shape: rangeShape{}},
	{Name: "entry_point", Aliases: []string{"entrypoint"}, Doc: "The script, relative to the folder of this manifest.", Default: "the only <name>.* there", shape: textShape{}},
	{Name: "run_as", Doc: "The user, by name or number, that the process runs as. The daemon needs the right to change to it.", Default: "the daemon's user", shape: userShape{}},
	{Name: "limits", Doc: "Bounds on the process and all that it starts.", Default: "the daemon's", shape: mappingShape{limitKeys}},
	{Name: "env", Doc: "Further environment variables. Names that begin with ATTUNE_ are Attune's own.", shape: environmentShape{}},
}

var limitKeys = []Key{
	{Name: "memory", Doc: "Memory, in bytes or as \"64MiB\".", shape: sizeShape{}},
	{Name: "pids", Doc: "How many processes and threads at most.", shape: integerShape{1}},
	{Name: "cpu", Doc: "How many processors it may use, such as 1.5.", shape: coresShape{}},
	{Name: "nofile", Doc: "How many open files at most.", shape: integerShape{1}},
	{Name: "fsize", Doc: "The largest file that it may write, in bytes or as \"1GiB\".", shape: sizeShape{}},
}

var actionKeys = slices.Concat(headerKeys, runnerKeys, []Key{
	{Name: "parameters", Doc: "What the action takes: a map of names to schemas, or a JSON Schema. Other parameters than these are refused.", Default: "none", shape: schemaShape{}},
	{Name: "output_schema", Aliases: []string{"output"}, Doc: "The schema of the result.", Default: "anything", shape: schemaShape{}},
	{Name: "output_format", Doc: "How stdout becomes the result: text never does; json, yaml and jsonl (a JSON value on each line) are parsed, and fail the execution if they cannot be.", Default: "stdout that is one JSON object or array is the result", shape: choiceShape{same(OutputText, OutputJSON, OutputYAML, OutputJSONL)}},
	{Name: "parameter_delivery", Doc: "How the parameters come: env as ATTUNE_ACTION_<KEY>, stdin, or file, named by ATTUNE_PARAMETER_FILE. env shows secret ones to whoever may read the process's environment.", Default: "as JSON on stdin, and those that are not secret as ATTUNE_ACTION_<KEY> too", shape: choiceShape{same(DeliverEnv, DeliverStdin, DeliverFile)}},
	{Name: "parameter_format", Doc: "How stdin or the file has them.", Default: "json", shape: choiceShape{words("json", "dotenv", "yaml")}},
	{Name: "timeout", Doc: "How long one attempt may take, in seconds or as \"5m\".", Default: "exec.timeout of attune.toml", shape: durationShape{}},
	{Name: "timeout_total", Doc: "How long all attempts of one execution may take together, pauses included, counted from the start of the first, in seconds or as \"1h\". What runs then is stopped, and there is no other attempt.", Default: "any time", shape: durationShape{}},
	{Name: "expires", Doc: "How long an execution may wait to be started, in seconds or as \"1h\"; then it is cancelled.", Default: "for ever", shape: durationShape{}},
	{Name: "retry", Doc: "When an attempt that did not succeed is followed by another.", Default: "never", shape: mappingShape{retryKeys}},
	{Name: "concurrency", Doc: "How many executions may run at once.", Default: "any number", shape: mappingShape{concurrencyKeys}},
	{Name: "priority", Doc: "Of what waits, the higher goes first.", Default: "0", shape: integerShape{math.MinInt32}},
	{Name: "on_lost", Doc: "What becomes of an execution whose node died: fail ends it as lost, retry starts it again, so that it may run twice.", Default: "fail", shape: choiceShape{words("fail", "retry")}},
	{Name: "warm", Doc: "Starts it from a warm interpreter, which is faster.", Default: "false", shape: flagShape{}},
	{Name: "detach", Doc: "Lets live what the script leaves behind when it ends by itself.", Default: "false", shape: flagShape{}},
})

var retryKeys = []Key{
	{Name: "max_attempts", Doc: "How many attempts in all, the first counted.", Required: true, shape: integerShape{1}},
	{Name: "delay", Doc: "The pause before the next attempt, in seconds or as \"10s\".", Default: "0", shape: durationShape{zero: true}},
	{Name: "backoff", Doc: "exponential doubles the delay each time.", Default: "constant", shape: choiceShape{words("constant", "exponential")}},
	{Name: "max_delay", Doc: "The longest that the delay grows to.", shape: durationShape{}},
	{Name: "on", Doc: "After which ends there is another attempt.", Default: "[failed, timed_out]", shape: listShape{choiceShape{same("failed", "timed_out", "lost")}}},
	{Name: "exit_codes", Doc: "After which exit codes there is another attempt.", Default: "any", shape: listShape{exitCodeShape{}}},
}

var concurrencyKeys = []Key{
	{Name: "max", Doc: "How many run at once.", Required: true, shape: integerShape{1}},
	{Name: "key", Doc: "What is counted together: an expression over the parameters, such as parameters.host.", Default: "all of this action", shape: textShape{}},
	{Name: "policy", Doc: "What becomes of one too many: queue lets it wait, skip ends it as cancelled, replace cancels the oldest that runs and whatever else waits.", Default: "queue", shape: choiceShape{words("queue", "skip", "replace")}},
}

var triggerKeys = slices.Concat(headerKeys, []Key{
	{Name: "type", Doc: "What fires it: a timer (interval, cron, datetime), a webhook, or custom for a sensor of any kind.", Default: TriggerCustom, shape: choiceShape{map[string]string{
		TriggerInterval: TriggerInterval, TriggerCron: TriggerCron, TriggerDatetime: TriggerDatetime, "one_shot": TriggerDatetime,
		TriggerWebhook: TriggerWebhook, TriggerCustom: TriggerCustom, "system": TriggerCustom,
	}}},
	{Name: "parameters_schema", Aliases: []string{"parameters"}, Doc: "What a rule may give this trigger: a map of names to schemas, or a JSON Schema.", Default: "none", shape: schemaShape{}},
	{Name: "payload_schema", Aliases: []string{"output", "output_schema"}, Doc: "What its events carry. Rules that misspell a field are told so.", Default: "anything", shape: schemaShape{}},
	{Name: "on_invalid", Doc: "What becomes of an event that does not fit payload_schema: keep stores it with a mark, refuse drops it.", Default: "keep", shape: choiceShape{words("keep", "refuse")}},
	{Name: "verify", Doc: "How the sender of a webhook is checked.", Default: "token", shape: anyShape{choiceShape{same(VerifyToken, VerifyNone)}, mappingShape{verifyKeys}}},
})

var verifyKeys = []Key{
	{Name: "type", Doc: "By the signature of a provider, or of the Standard Webhooks; hmac by one of your own; token by the trigger's own token; none not at all.", Required: true, shape: choiceShape{same(slices.Collect(maps.Keys(verifiers))...)}},
	{Name: "secret", Doc: "The key of the signature, as a reference: \"{{ secret.name }}\" or \"{{ pack.config.name }}\".", shape: textShape{pattern: secretReference.String()}},
	{Name: "header", Doc: "For hmac: the header with the signature (HMAC-SHA256 of the body).", shape: textShape{}},
	{Name: "prefix", Doc: "For hmac: what stands before the signature, such as sha256=.", shape: textShape{}},
	{Name: "encoding", Doc: "For hmac: how the signature is written.", Default: "hex", shape: choiceShape{words("hex", "base64")}},
	{Name: "tolerance", Doc: "For stripe, slack and standard: how old the signed time may be.", Default: "5m", shape: durationShape{}},
	{Name: "delivery_id", Doc: "The header whose value tells a repeated delivery.", Default: "the provider's own", shape: textShape{}},
}

var sensorKeys = slices.Concat(headerKeys, runnerKeys, []Key{
	{Name: "trigger_types", Doc: "The triggers that the sensor may fire. In its own pack a name will do.", Required: true, shape: listShape{refShape{}}},
	{Name: "trigger_type", Doc: "The one trigger that it may fire.", shape: anyShape{refShape{}, listShape{refShape{}}}},
	{Name: "on_demand", Doc: "Runs the sensor only while an enabled rule wants one of its triggers.", Default: "false", shape: flagShape{}},
	{Name: "parameters", Doc: "The schema of config.", shape: schemaShape{}},
	{Name: "config", Doc: "The sensor's configuration, given to it as ATTUNE_SENSOR_<KEY>; secret values come as JSON on stdin instead.", shape: treeShape{}},
	{Name: "poll_interval", Doc: "For a sensor that looks once and exits 0: how long until it is run again.", shape: durationShape{}},
	{Name: "watchdog", Doc: "Restarts the sensor when it has printed no line, be it a heartbeat, for this long.", Default: "never", shape: durationShape{}},
	{Name: "ack", Doc: "Gives the sensor one line on stdin for each event that was stored.", Default: "false", shape: flagShape{}},
	{Name: "updates", Doc: "Tells the sensor on stdin when its trigger instances change, instead of restarting it.", Default: "false", shape: flagShape{}},
})

var ruleKeys = slices.Concat(headerKeys, []Key{
	{Name: "trigger", Doc: "The trigger that the rule waits for, by its ref, or with parameters.", Required: true, shape: anyShape{refShape{}, mappingShape{triggerUseKeys}}},
	{Name: "trigger_ref", Doc: "The same as trigger.ref.", shape: refShape{}},
	{Name: "trigger_params", Doc: "The same as trigger.parameters.", shape: treeShape{}},
	{Name: "when", Aliases: []string{"criteria", "conditions"}, Doc: "The condition: an expression, such as event.payload.load > 5.", Default: "always", shape: conditionShape{}},
	{Name: "action", Doc: "The action that is queued, by its ref, or with parameters.", Required: true, shape: anyShape{refShape{}, mappingShape{actionUseKeys}}},
	{Name: "action_ref", Doc: "The same as action.ref.", shape: refShape{}},
	{Name: "action_params", Doc: "The same as action.parameters.", shape: treeShape{}},
	{Name: "actions", Doc: "Several actions, in place of action. All are queued at once, and none waits for another.", shape: listShape{anyShape{refShape{}, mappingShape{actionUseKeys}}}},
	{Name: "for_each", Doc: "A list, as an expression; the actions are queued for each element, which templates know as item.", Default: "once", shape: textShape{}},
	{Name: "throttle", Doc: "At most so many events in a time; the others are recorded as throttled.", shape: mappingShape{throttleKeys}},
	{Name: "debounce", Doc: "Acts on the last event of a burst.", shape: mappingShape{debounceKeys}},
	{Name: "dedupe", Doc: "Acts on the first of equal events.", shape: mappingShape{dedupeKeys}},
	{Name: "breaker", Doc: "Stops the rule for a while when its action keeps failing, or when it leads to too much.", shape: mappingShape{breakerKeys}},
	{Name: "priority", Doc: "Of what waits, the higher goes first.", Default: "the action's", shape: integerShape{math.MinInt32}},
})

var triggerUseKeys = []Key{
	{Name: "ref", Aliases: []string{"type"}, Doc: "<pack>.<name>; in its own pack the name will do.", Required: true, shape: refShape{}},
	{Name: "parameters", Doc: "What the trigger waits for. Fixed values: there is no event yet.", shape: treeShape{}},
}

var actionUseKeys = []Key{
	{Name: "ref", Aliases: []string{"type"}, Doc: "<pack>.<name>; in its own pack the name will do.", Required: true, shape: refShape{}},
	{Name: "parameters", Doc: "What the action gets. A text may hold templates: \"{{ event.payload.x }}\".", shape: treeShape{}},
}

var criterionKeys = []Key{
	{Name: "field", Doc: "A field of the payload.", Required: true, shape: textShape{}},
	{Name: "operator", Doc: "How it is compared.", Required: true, shape: choiceShape{same(criteriaOperators...)}},
	{Name: "value", Doc: "What it is compared with.", shape: keptShape{}},
}

var expressionKeys = []Key{
	{Name: "expression", Doc: "The condition.", shape: textShape{}},
}

var requirementKeys = []Key{
	{Name: "ref", Doc: "What is needed.", Required: true, shape: textShape{}},
	{Name: "version", Doc: "Which versions will do, such as \">= 1.2\".", Default: "any", shape: rangeShape{}},
}

var dependencyKeys = []Key{
	{Name: "packs", Doc: "The packs.", shape: listShape{requirementShape{}}},
	{Name: "attune_version", Aliases: []string{"attune"}, Doc: "The versions of Attune that the pack works with.", Default: "any", shape: rangeShape{}},
}

// The key of a guard is an expression, such as event.payload.host.
const guardKeyDoc = "What is counted together: an expression, such as event.payload.host."

var throttleKeys = []Key{
	{Name: "max", Doc: "How many events.", Required: true, shape: integerShape{1}},
	{Name: "per", Doc: "In how long a time, in seconds or as \"1m\".", Required: true, shape: durationShape{}},
	{Name: "key", Doc: guardKeyDoc, Default: "all events", shape: textShape{}},
}

var debounceKeys = []Key{
	{Name: "window", Doc: "How long no other event may have come, in seconds or as \"30s\".", Required: true, shape: durationShape{}},
	{Name: "max_wait", Doc: "The longest that the first event of a burst waits.", Default: "for ever", shape: durationShape{}},
	{Name: "key", Doc: guardKeyDoc, Default: "all events", shape: textShape{}},
}

var dedupeKeys = []Key{
	{Name: "key", Doc: "What makes two events equal: an expression, such as event.payload.id.", Default: "the whole payload", shape: textShape{}},
	{Name: "window", Doc: "For how long the first one counts, in seconds or as \"1h\".", Required: true, shape: durationShape{}},
}

var breakerKeys = []Key{
	{Name: "failures", Doc: "Opens after so many executions in a row that did not succeed.", shape: integerShape{1}},
	{Name: "executions", Doc: "Opens when there are more executions than this in the time of per.", shape: integerShape{1}},
	{Name: "per", Doc: "The time in which executions are counted.", Default: "1m", shape: durationShape{}},
	{Name: "pause", Doc: "How long it stays open.", Default: "5m", shape: durationShape{}},
}
