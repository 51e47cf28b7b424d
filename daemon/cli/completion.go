package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// completionPatience is how long a shell waits for the daemon: nobody waits longer for a key.
	completionPatience = 2 * time.Second

	// mostCompleted bounds how many ids are offered, the newest ones.
	mostCompleted = 50
)

// offer is what may stand for one word: each with what it is, after a tab.
type offer func(ctx context.Context, client *api.Client) ([]string, error)

// completions has the shell offer what the daemon knows for each command's words and flags: what a word
// means is told by the command's usage line and its noun, so that a new verb is completed without more.
func (c *command) completions(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		c.completions(sub)
	}
	c.completeFlags(cmd)
	if cmd.HasSubCommands() || cmd.ValidArgsFunction != nil || len(cmd.ValidArgs) > 0 {
		return
	}
	_, words, _ := strings.Cut(cmd.Use, " ")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return c.completeWord(cmd, words, args, typed)
	}
}

// optional is a part of a usage line that may be left out.
var optional = regexp.MustCompile(`[][()]`)

// completeWord offers what the next word of a command may be.
func (c *command) completeWord(cmd *cobra.Command, usage string, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	usage, _, _ = strings.Cut(usage, " | ") // the first way to say it has all the words
	words := strings.Fields(optional.ReplaceAllString(usage, ""))
	position := len(args)
	word := ""
	switch last := len(words) - 1; {
	case position <= last:
		word = words[position]
	case last >= 0 && strings.Contains(words[last], "…"):
		word = words[last]
	}
	noun := ""
	if cmd.HasParent() {
		noun = cmd.Parent().Name()
	}
	switch {
	case cmd.Name() == "run":
		noun = "action"
	case cmd.Name() == "why" && position > 0:
		noun = args[0]
	}
	switch {
	case strings.HasPrefix(word, "REF"):
		return c.offered(cmd, args, typed, refsOf(noun))
	case strings.HasPrefix(word, "ID") && noun != "":
		return c.offered(cmd, args, typed, idsOf(noun))
	case strings.HasPrefix(word, "NAME=VALUE"):
		return c.completeParameter(cmd, noun, args, typed)
	case noun == "token" && word == "NAME" && cmd.Name() == "revoke":
		return c.offered(cmd, nil, typed, offerOf((*api.Client).Tokens, false, func(t *api.Token) string {
			return described(t.Name, t.Scope+", "+packOf(t.Pack))
		}))
	case word == "TRIGGER":
		return c.offered(cmd, args, typed, refsOf("trigger"), refsOf("rule"))
	case word == "REVISION":
		return c.offered(cmd, nil, typed, revisionsOf(args[0]))
	case word == "FROM", word == "TO":
		return c.offered(cmd, nil, typed, revisionsOf(args[0]), fixed("folder\twhat the packs folder has now"))
	case strings.HasPrefix(word, "PATH"), word == "FILE":
		return nil, cobra.ShellCompDirectiveDefault
	case word == "UNIT":
		return timersInstalled(typed), cobra.ShellCompDirectiveDefault
	case word == "event|execution":
		return c.offered(cmd, nil, typed, fixed("event", "execution"), idsOf("execution"))
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// offered puts the questions to the daemon and offers the answers that begin with what was typed and are not
// there yet. Whatever goes wrong, a shell shows nothing rather than an error.
func (c *command) offered(cmd *cobra.Command, taken []string, typed string, offers ...offer) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	client, err := c.client()
	if err != nil {
		return nil, directive
	}
	defer client.Close()
	var found []string
	for _, ask := range offers {
		answers, err := ask(ctx, client)
		if err != nil {
			continue
		}
		for _, answer := range answers {
			if word, _, _ := strings.Cut(answer, "\t"); strings.HasPrefix(word, typed) && !slices.Contains(taken, word) {
				found = append(found, answer)
			}
		}
	}
	return found, directive | cobra.ShellCompDirectiveKeepOrder
}

// fixed offers what needs no daemon.
func fixed(words ...string) offer {
	return func(context.Context, *api.Client) ([]string, error) { return words, nil }
}

// refsOf offers the refs of a noun's things, those that are switched off too: show and enable want them.
func refsOf(noun string) offer {
	all := api.ComponentFilter{All: true}
	switch manifest.Kind(noun) {
	case manifest.KindPack:
		return offerOf((*api.Client).Packs, all, func(p *api.Pack) string { return described(p.Ref, p.Label) })
	case manifest.KindAction:
		return offerOf((*api.Client).Actions, all, func(a *api.Action) string { return componentOffer(&a.Component) })
	case manifest.KindTrigger:
		return offerOf((*api.Client).Triggers, all, func(t *api.Trigger) string { return componentOffer(&t.Component) })
	case manifest.KindSensor:
		return offerOf((*api.Client).Sensors, all, func(s *api.Sensor) string { return componentOffer(&s.Component) })
	case manifest.KindRule:
		return offerOf((*api.Client).Rules, all, func(r *api.Rule) string { return componentOffer(&r.Component) })
	default:
		return fixed()
	}
}

// idsOf offers the ids of the newest of a noun's things.
func idsOf(noun string) offer {
	switch noun {
	case "execution":
		return offerOf((*api.Client).Executions, api.ExecutionFilter{Limit: mostCompleted}, func(e *api.Execution) string {
			return described(strconv.FormatInt(e.ID, 10), e.Action+", "+string(e.Status))
		})
	case "event":
		return offerOf((*api.Client).Events, api.EventFilter{Limit: mostCompleted}, func(e *api.Event) string {
			return described(strconv.FormatInt(e.ID, 10), e.Trigger)
		})
	default:
		return fixed()
	}
}

func revisionsOf(pack string) offer {
	return func(ctx context.Context, client *api.Client) ([]string, error) {
		revisions, err := client.History(ctx, pack, mostCompleted)
		var words []string
		for _, r := range revisions {
			words = append(words, described(strconv.Itoa(r.Number), short(r.Digest)+", "+r.CreatedAt.Local().Format(time.DateTime)))
		}
		return words, err
	}
}

// offerOf makes an offer of a list.
func offerOf[T, F any](question func(*api.Client, context.Context, F) ([]T, error), filter F, word func(*T) string) offer {
	return func(ctx context.Context, client *api.Client) ([]string, error) {
		items, err := question(client, ctx, filter)
		words := make([]string, len(items))
		for i := range items {
			words[i] = word(&items[i])
		}
		return words, err
	}
}

func componentOffer(one *api.Component) string {
	text := one.Label
	if text == "" {
		text = one.Description
	}
	if !one.Enabled {
		text = strings.TrimSuffix("off: "+text, ": ")
	}
	return described(one.Ref, text)
}

// described is a word with what it is, on one line and of a length that a menu can show.
func described(word, text string) string {
	const most = 60
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if text = oneLine(text); text == "" {
		return word
	}
	return word + "\t" + cut(text, most)
}

// completeParameter offers the parameters of an action or a trigger as NAME=, and behind the = what the
// schema lists.
func (c *command) completeParameter(cmd *cobra.Command, noun string, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.HasPrefix(typed, "@") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	client, err := c.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	properties, err := propertiesOf(ctx, client, noun, cmd.Name(), args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	given := map[string]bool{}
	for _, word := range args[1:] {
		name, _, _ := strings.Cut(word, "=")
		given[name] = true
	}
	name, _, hasValue := strings.Cut(typed, "=")
	var words []string
	for _, p := range properties {
		switch {
		case hasValue && p.Name == name:
			for _, value := range valuesOf(p) {
				words = append(words, name+"="+value)
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		case !hasValue && strings.HasPrefix(p.Name, typed) && !given[p.Name]:
			text := p.Type
			if p.Required {
				text += ", required"
			}
			if p.Description != "" {
				text += ": " + p.Description
			}
			words = append(words, described(p.Name+"=", text))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveKeepOrder
}

func propertiesOf(ctx context.Context, client *api.Client, noun, verb, ref string) ([]manifest.Property, error) {
	if noun == string(manifest.KindTrigger) {
		trigger, err := client.Trigger(ctx, ref)
		if err != nil {
			return nil, err
		}
		if verb == "next" {
			return trigger.ParametersSchema.Properties(), nil
		}
		return trigger.PayloadSchema.Properties(), nil
	}
	action, err := client.Action(ctx, ref)
	if err != nil {
		return nil, err
	}
	return action.Parameters.Properties(), nil
}

// valuesOf are the values that a schema lists, or that its type has.
func valuesOf(p manifest.Property) []string {
	var values []string
	for _, v := range p.Enum {
		values = append(values, fmt.Sprint(v))
	}
	if len(values) == 0 && p.Type == "boolean" {
		values = []string{"true", "false"}
	}
	return values
}

// fileFlags are those that name a file or a folder.
func fileFlags() []string {
	return []string{"directory", "each", "file", "payload", "packs", "socket", "state"}
}

func triggerTypes() []string { return []string{"interval", "cron", "datetime", "webhook", "custom"} }

// sensorStates are what a sensor's process does.
func sensorStates() []string {
	return []string{
		string(sensor.StateRunning), string(sensor.StateStarting), string(sensor.StateStopping), string(sensor.StateStopped),
		string(sensor.StateIdle), string(sensor.StateBackoff), string(sensor.StateFailed), string(sensor.StateWaiting), string(sensor.StateUnkillable),
	}
}

// completeFlags has the shell offer the values of a command's own flags.
func (c *command) completeFlags(cmd *cobra.Command) {
	refs := func(noun string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return c.offered(cmd, nil, typed, refsOf(noun))
		}
	}
	words := func(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return words, cobra.ShellCompDirectiveNoFileComp
		}
	}
	offers := map[string]func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective){
		"status": words(statuses()...),
		"type":   words(triggerTypes()...),
		"since":  words("15m", "1h", "1d", "7d"),
		"event": func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return c.offered(cmd, nil, typed, idsOf("event"))
		},
		"source": func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return c.offered(cmd, nil, typed, fixed("api", "webhook", "attune"), refsOf("sensor"))
		},
		"log-level": words("debug", "info", "warn", "error"),
		"scope":     words("read", "run", "admin"),
		"expires":   words("12h", "30d", "90d", "365d"),
		"output":    words(outputTable, outputWide, outputJSON, outputYAML, outputName),
	}
	for _, kind := range []manifest.Kind{manifest.KindPack, manifest.KindAction, manifest.KindTrigger, manifest.KindSensor, manifest.KindRule} {
		offers[string(kind)] = refs(string(kind))
	}
	if cmd.Name() == "new" {
		// What it makes is not there yet.
		offers["action"], offers["sensor"], offers["rule"] = words(newActions...), words(newSensors...), words(newRules...)
	}
	if cmd.HasParent() && cmd.Parent().Name() == string(manifest.KindSensor) {
		offers["state"] = words(sensorStates()...)
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		// A shell offers files for what nobody completes.
		if offers[f.Name] == nil && f.Value.Type() != "bool" && !slices.Contains(fileFlags(), f.Name) {
			offers[f.Name] = words()
		}
	})
	for name, complete := range offers {
		if cmd.LocalNonPersistentFlags().Lookup(name) == nil && cmd.PersistentFlags().Lookup(name) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(fmt.Sprintf("cannot complete --%s of %q twice: %v", name, cmd.CommandPath(), err))
		}
	}
}
