package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) packCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pack",
		Aliases: []string{"packs"},
		Short:   "Look at packs, check them, apply them",
	}
	cmd.AddCommand(c.packList(), c.packShow(), c.packNew(), c.packLint(), c.packSchema(), c.packSign(), c.packVerify(), c.packPlan(), c.packReload(), c.packHistory(), c.packDiff(), c.packRollback())
	cmd.AddCommand(c.switchCommands(manifest.KindPack, "Its sensors stop, its rules match no more, and its actions are not started: those of its executions\n"+
		"that wait fail when their turn comes, those that run are left to end.")...)
	return cmd
}

func (c *command) packList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the packs in force",
		Example: "  attune pack list --all",
	}, list[api.Pack]{
		noun:    "pack",
		changes: true,
		ask:     narrowed((*api.Client).Packs, &filter),
		name:    func(p *api.Pack) string { return p.Ref },
		columns: []column[api.Pack]{
			textColumn("ref", func(p *api.Pack) string { return p.Ref }),
			textColumn("version", func(p *api.Pack) string { return p.Version }),
			{title: "enabled", cell: func(_ time.Time, p *api.Pack) cell { return packEnabledCell(p) }},
			{title: "revision", cell: func(_ time.Time, p *api.Pack) cell { return revisionCell(p) }},
			textColumn("digest", func(p *api.Pack) string { return short(p.Digest) }).onlyWide(),
			textColumn("components", func(p *api.Pack) string { return componentsText(p.Components) }),
			{title: "errors", cell: func(_ time.Time, p *api.Pack) cell { return errorCell(p.Errors) }},
			ageColumn("changed", func(p *api.Pack) *time.Time { return &p.UpdatedAt }),
			textColumn("directory", func(p *api.Pack) string { return p.Directory }).onlyWide(),
		},
	})
	cmd.Flags().BoolVar(&filter.All, "all", false, "list the disabled and the removed too")
	return cmd
}

func componentsText(n api.ComponentCounts) string {
	var parts []string
	for _, p := range []struct {
		n    int
		noun string
	}{{n.Actions, "action"}, {n.Triggers, "trigger"}, {n.Sensors, "sensor"}, {n.Rules, "rule"}} {
		if p.n > 0 {
			parts = append(parts, count(p.n, p.noun))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func errorCount(errs manifest.Errors) int {
	n := 0
	for _, e := range errs {
		if e.Severity == manifest.SeverityError {
			n++
		}
	}
	return n
}

func errorCell(errs manifest.Errors) cell {
	n := errorCount(errs)
	switch {
	case n > 0:
		return cell{count(n, "error"), styleBad}
	case len(errs) > 0:
		return cell{count(len(errs), "warning"), styleWarn}
	default:
		return cell{"-", styleDim}
	}
}

func (c *command) packShow() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a pack, its components and what is wrong with it",
		Example: "  attune pack show core",
	}, "pack", (*api.Client).Pack, c.packScreen)
}

func (c *command) packScreen(w io.Writer, p *api.PackDetail) {
	errorsText := "none"
	if len(p.Errors) > 0 {
		errorsText = count(errorCount(p.Errors), "error")
		if n := len(p.Errors) - errorCount(p.Errors); n > 0 {
			errorsText += ", " + count(n, "warning")
		}
	}
	c.fields(w, [][2]string{
		{"pack", p.Ref},
		{"label", p.Label},
		{"description", p.Description},
		{"version", p.Version},
		{"enabled", enabledText(p.Enabled, p.WhyDisabled)},
		{"revision", fmt.Sprintf("%d, %s", p.Revision, short(p.Digest))},
		{"pinned", pinnedText(&p.Pack)},
		{"drift", driftText(p.Drift)},
		{"signature", p.Signature},
		{"directory", p.Directory},
		{"changed", age(time.Now(), p.UpdatedAt) + " ago"},
		{"errors", errorsText},
	})
	c.findings(w, p.Errors)
	if len(p.Config) > 0 {
		fmt.Fprintln(w)
		var rows [][]cell
		for _, v := range p.Config {
			rows = append(rows, []cell{plain(v.Key), plain(jsonText(v.Value)), plain(v.Origin), plain(v.Description)})
		}
		c.table(w, []string{"configuration", "value", "from", "description"}, rows)
	}
	c.packEnvironments(w, p.Environments)
	for _, group := range []struct {
		noun  string
		items []api.ComponentState
	}{{"actions", p.Actions}, {"triggers", p.Triggers}, {"sensors", p.Sensors}, {"rules", p.Rules}} {
		if len(group.items) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", c.paint(styleDim, strings.ToUpper(group.noun)))
		for _, item := range group.items {
			fmt.Fprintf(w, "  %s%s\n", item.Ref, c.componentNote(item))
		}
	}
}

// packEnvironments tells what a pack has beside interpreters, and of one that failed what was printed.
func (c *command) packEnvironments(w io.Writer, list []api.Environment) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w)
	var rows [][]cell
	for i := range list {
		e := &list[i]
		note := e.Path
		switch {
		case e.Error != "":
			note = e.Error
		case e.State == "making" && e.Progress != "":
			note = e.Progress
		case e.State == "system":
			note = "the system's interpreter has all that is required"
		}
		rows = append(rows, []cell{plain(e.Runtime), status(string(e.State)), plain(age(time.Now(), e.Since)), plain(short(e.Digest)), plain(note)})
	}
	c.table(w, []string{"environment", "state", "since", "digest", "note"}, rows)
	for i := range list {
		if list[i].Log != "" {
			fmt.Fprintf(w, "\n%s\n%s\n", c.paint(styleDim, list[i].LogFile+", its end:"), strings.TrimRight(list[i].Log, "\n"))
		}
	}
}

func (c *command) componentNote(s api.ComponentState) string {
	switch {
	case s.Held:
		return c.paint(styleWarn, "  runs its last good version")
	case !s.Present:
		return c.paint(styleDim, "  removed")
	case !s.Enabled:
		return c.paint(styleDim, "  disabled: "+s.WhyDisabled)
	default:
		return ""
	}
}

// revisionCell is the number of a pack's revision, and whether the pack is pinned to it.
func revisionCell(p *api.Pack) cell {
	if p.PinnedBy != nil {
		return cell{fmt.Sprintf("%d (pinned)", p.Revision), styleWarn}
	}
	return plain(fmt.Sprint(p.Revision))
}

// pinnedText says by whom a pack is pinned, and why; empty: it is not.
func pinnedText(p *api.Pack) string {
	if p.PinnedBy == nil {
		return ""
	}
	text := fmt.Sprintf("to revision %d by %s %s ago", p.Revision, *p.PinnedBy, agePtr(time.Now(), p.PinnedAt))
	if p.PinnedReason != nil {
		text += " (" + *p.PinnedReason + ")"
	}
	return text + "; `attune pack rollback " + p.Ref + " --unpin` lets its folder rule again"
}

// driftText says that a pack's folder is not what is in force; empty: it is.
func driftText(d *reconcile.Drift) string {
	if d == nil {
		return ""
	}
	return fmt.Sprintf("%s of its folder not applied: %s; see `attune pack plan %s`", count(d.Steps, "change"), d.Why, d.Pack)
}

// enabledText says whether a thing is in force, and if not, why.
func enabledText(enabled bool, why string) string {
	if enabled {
		return "yes"
	}
	return "no: " + why
}

// enabledCell is the same in a column: by whom something is off, or by what.
func enabledCell(enabled, present, manifestEnabled bool, by *string) cell {
	switch {
	case enabled:
		return status("yes")
	case !present:
		return cell{"no (removed)", styleDim}
	case by != nil:
		return cell{"no (" + *by + ")", styleWarn}
	case !manifestEnabled:
		return cell{"no (manifest)", styleDim}
	default:
		return cell{"no (pack)", styleDim}
	}
}

func packEnabledCell(p *api.Pack) cell {
	return enabledCell(p.Enabled, p.Present, p.ManifestEnabled, p.DisabledBy)
}

func componentEnabledCell(h *api.Component) cell {
	return enabledCell(h.Enabled, h.Present, h.ManifestEnabled, h.DisabledBy)
}

// findings prints errors and warnings, each with its place.
func (c *command) findings(w io.Writer, errs manifest.Errors) {
	for _, e := range errs {
		style := styleBad
		if e.Severity == manifest.SeverityWarning {
			style = styleWarn
		}
		fmt.Fprintf(w, "%s %s\n", c.paint(style, string(e.Severity)+":"), e.Error())
	}
}

// short is enough of a digest to tell it from others.
func short(digest string) string {
	const enough = 12
	return digest[:min(len(digest), enough)]
}

func (c *command) packPlan() *cobra.Command {
	var detailed bool
	cmd := &cobra.Command{
		Use:   "plan [REF]",
		Short: "Show what applying the packs folder would change now",
		Long: "Shows what applying the packs folder would change now, with what follows of each change. Nothing is applied.\n\n" +
			"With --detailed-exitcode it exits 2 where an apply would change something, and 0 where it would not:\n" +
			"also where all that differs is held (a pin, a stale checkout) or refused, so that the last good version stays.",
		Example: "  attune pack plan\n  attune pack plan tour --detailed-exitcode",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var plan *reconcile.Plan
			err := ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (_ *reconcile.Plan, err error) {
				defer c.tellCompared(ctx, client)()
				plan, err = client.Plan(ctx, first(args))
				return plan, err
			}, c.planScreen)
			if err == nil && detailed && plan.Applies() {
				const changes = 2 // as terraform has it
				return &exitError{changes}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit 2 where an apply would change something")
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// tellCompared tells on a terminal how far the daemon is with a scan that takes long, until what it gives is
// called.
func (c *command) tellCompared(ctx context.Context, client *api.Client) (done func()) {
	const first, between = time.Second, 300 * time.Millisecond // before anybody wonders, and as a person reads
	progress := c.newProgress()
	if !progress.live {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer progress.clear()
		for wait := first; ; wait = between {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			status, err := client.Status(ctx)
			switch {
			case err != nil:
			case status.Reconcile.Compared != nil:
				progress.tell("%d of %d packs compared", status.Reconcile.Compared.Packs, status.Reconcile.Compared.Of)
			default:
				progress.tell("scanning the packs …")
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// planScreen prints a plan as its users know it from terraform.
func (c *command) planScreen(w io.Writer, plan *reconcile.Plan) {
	if len(plan.Packs) == 0 {
		fmt.Fprintln(w, "No changes: the files are what is in force.")
		return
	}
	for _, p := range plan.Packs {
		fmt.Fprintf(w, "%s %s\n", p.Ref, c.paint(styleDim, strings.TrimSpace(p.Version+" "+short(p.Digest))))
		if p.Held != "" {
			fmt.Fprintln(w, c.paint(styleWarn, "  not applied: "+p.Held))
		}
		for _, step := range p.Steps {
			c.stepLines(w, step)
		}
		c.findings(w, untold(p))
	}
	if text := planSummary(plan); text != "" {
		fmt.Fprintln(w, text)
	}
}

// untold are the findings that no step of the plan has with it.
func untold(p reconcile.PackPlan) manifest.Errors {
	return slices.DeleteFunc(slices.Clone(p.Errors), func(e *manifest.Error) bool {
		return slices.ContainsFunc(p.Steps, func(s reconcile.Step) bool {
			return slices.ContainsFunc(s.Errors, func(told *manifest.Error) bool { return *told == *e })
		})
	})
}

// planSummary counts what a plan does; empty: nothing.
func planSummary(plan *reconcile.Plan) string {
	counts := map[string]int{}
	for _, p := range plan.Packs {
		for _, s := range p.Steps {
			op := s.Op
			if op == reconcile.StepEnable {
				op = reconcile.StepCreate
			}
			if p.Held != "" && op != reconcile.StepKeep {
				op = "held"
			}
			counts[op]++
		}
	}
	var parts []string
	for _, part := range []struct{ op, text string }{
		{reconcile.StepCreate, "%d to create"},
		{reconcile.StepChange, "%d to change"},
		{reconcile.StepDisable, "%d to disable"},
		{reconcile.StepKeep, "%d to keep as they were last good"},
		{"held", "%d not to be applied"},
	} {
		if n := counts[part.op]; n > 0 {
			parts = append(parts, fmt.Sprintf(part.text, n))
		}
	}
	return strings.Join(parts, ", ")
}

func (c *command) stepLines(w io.Writer, s reconcile.Step) {
	mark, style := "~", styleWarn
	switch s.Op {
	case reconcile.StepCreate, reconcile.StepEnable:
		mark, style = "+", styleGood
	case reconcile.StepDisable:
		mark, style = "-", styleBad
	case reconcile.StepKeep:
		mark, style = "!", styleBad
	}
	line := fmt.Sprintf("  %s %s %s", mark, s.Kind, s.Ref)
	if s.Op == reconcile.StepKeep {
		line = fmt.Sprintf("  %s %s %s: keeps its last good version", mark, s.Kind, s.Ref)
	}
	fmt.Fprintln(w, c.paint(style, line))
	for _, f := range s.Fields {
		fmt.Fprintf(w, "      %s: %s -> %s\n", f.Field, jsonText(f.Old), jsonText(f.New))
	}
	if s.Files {
		fmt.Fprintln(w, "      its files changed")
	}
	for _, e := range s.Errors {
		text := e.Error()
		if s.Op != reconcile.StepKeep {
			text = "was refused: " + text
		}
		fmt.Fprintf(w, "      %s\n", text)
	}
	for _, e := range s.Effects {
		fmt.Fprintf(w, "      %s %s %s\n", c.paint(styleBusy, "=>"), fmt.Sprintf("%s %s %s", e.Kind, e.Ref, e.Effect), c.paint(styleDim, "("+e.Why+")"))
	}
}

func jsonText(v any) string {
	if v == nil {
		return "(none)"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func (c *command) packReload() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "reload [REF]",
		Short: "Scan the packs folder now, and wait until what it says is in force",
		Long: "Scans the packs folder and waits until what it says is in force. The daemon does so by itself\n" +
			"after each change; this is for those who want to know when. Exits 1 if something was refused.\n\n" +
			"A folder that is older than what is in force when the daemon starts is a stale checkout more often\n" +
			"than a wish, and is not applied: --force applies it.",
		Example: "  attune pack reload core\n  attune pack reload tour --force",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report *api.Report
			err := ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (_ *api.Report, err error) {
				defer c.tellCompared(ctx, client)()
				if force {
					report, err = client.ForceReload(ctx, first(args))
				} else {
					report, err = client.Reload(ctx, first(args))
				}
				return report, err
			}, func(w io.Writer, _ *api.Report) {
				if report.Plan != nil && (len(report.Waits) == 0 || len(report.Plan.Packs) > 0) {
					c.planScreen(w, report.Plan)
				}
				for _, wait := range report.Waits {
					fmt.Fprintf(w, "%s %s\n", wait.Pack, c.paint(styleWarn, "is not looked at yet: "+wait.Why+"; it is applied when that is over"))
				}
				if report.Plan == nil || report.Plan.Empty() {
					c.findings(w, report.Errors)
				}
			})
			if err == nil && report.Errors.HasErrors() {
				err = &exitError{exitFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "apply the pack's files although they are of an older revision")
	return cmd
}

func (c *command) packHistory() *cobra.Command {
	var limit int
	var cmd *cobra.Command
	cmd = listCommand(c, &cobra.Command{
		Use:     "history REF",
		Short:   "List the applied states of a pack, newest first",
		Example: "  attune pack history core",
		Args:    needOne("pack"),
	}, list[api.Revision]{
		noun:        "revision",
		changes:     true,
		newestFirst: true,
		ask: func(client *api.Client, ctx context.Context) ([]api.Revision, error) {
			return client.History(ctx, cmd.Flags().Arg(0), limit)
		},
		name: func(r *api.Revision) string { return strconv.Itoa(r.Number) },
		columns: []column[api.Revision]{
			numberColumn("revision", func(r *api.Revision) int { return r.Number }),
			textColumn("version", func(r *api.Revision) string { return r.Version }),
			textColumn("digest", func(r *api.Revision) string { return short(r.Digest) }),
			ageColumn("age", func(r *api.Revision) *time.Time { return &r.CreatedAt }),
			textColumn("cause", func(r *api.Revision) string { return r.Cause }),
			textColumn("changes", func(r *api.Revision) string { return strings.Join(r.Changes, ", ") }),
		},
	})
	limitFlag(cmd, &limit, 20)
	return cmd
}
