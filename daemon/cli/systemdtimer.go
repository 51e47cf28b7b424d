package cli

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// setting is one assignment in a unit of systemd's.
type setting struct {
	file    string
	line    int // where it begins
	section string
	key     string
	value   string
	text    string // the first line as it stands
}

// readUnit reads a unit as systemd.syntax(7) has it. What is no assignment is told.
func readUnit(file, text string) (settings []setting, left []notTranslated) {
	section := ""
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line, number := strings.TrimSpace(lines[i]), i+1
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
			continue
		}
		whole := line
		for strings.HasSuffix(whole, `\`) && i+1 < len(lines) {
			i++
			next := strings.TrimSpace(lines[i])
			if next != "" && (next[0] == '#' || next[0] == ';') {
				continue // a comment inside of a value
			}
			whole = strings.TrimSpace(strings.TrimSuffix(whole, `\`)) + " " + next
		}
		whole = strings.TrimSuffix(whole, `\`)
		key, value, ok := strings.Cut(whole, "=")
		if !ok || section == "" {
			left = append(left, notTranslated{File: file, Line: number, Text: lines[number-1], Why: "it is no assignment in a section"})
			continue
		}
		settings = append(settings, setting{file, number, section, strings.TrimSpace(key), strings.TrimSpace(value), lines[number-1]})
	}
	return settings, left
}

// timerUnit is a timer and its service, as a pack can do them.
type timerUnit struct {
	about    string
	triggers []timerTrigger
	commands []unitCommand
	env      [][2]string
	folder   string
	user     string
	group    string
	timeout  string
	memory   string

	left []notTranslated
	// isPart says that of what the action does, or as whom and with what, something is missing: the rest alone
	// may do harm.
	isPart bool
}

// timerTrigger is a trigger of core's, with its parameters.
type timerTrigger struct {
	ref        string
	parameters map[string]any
	line       int
}

// unitCommand is one line of the script.
type unitCommand struct {
	shell    string
	mayFail  bool
	setting  setting
	priority int // pre, the command itself, post
}

func (u *timerUnit) leave(s setting, format string, args ...any) {
	u.isPart = u.isPart || s.section == "Service" && serviceEssential.MatchString(s.key)
	u.left = append(u.left, notTranslated{File: s.file, Line: s.line, Text: s.text, Why: fmt.Sprintf(format, args...)})
}

// What says nothing of what is run and when, or what Attune does anyway.
var (
	unitIgnored = regexp.MustCompile(`^(Description|Documentation|After|Before|Wants|Requires|Requisite|BindsTo|PartOf|DefaultDependencies|Source(Path)?)$`)

	timerIgnored = regexp.MustCompile(`^(AccuracySec|Unit|RemainAfterElapse)$`)

	serviceIgnored = regexp.MustCompile(`^(RemainAfterExit|StandardOutput|StandardError|SyslogIdentifier|SyslogFacility|SyslogLevel|SyslogLevelPrefix|LogLevelMax|TimeoutStopSec|KillMode|KillSignal|SendSIGKILL)$`)

	// serviceEssential is what commands cannot be run without.
	serviceEssential = regexp.MustCompile(`^(Exec(Start(Pre|Post)?|Condition)|Environment(File)?|PassEnvironment|UnsetEnvironment|User|Group|WorkingDirectory|RootDirectory|StandardInput.*)$`)

	isYes = regexp.MustCompile(`(?i)^(1|yes|y|true|t|on)$`)
)

// translateTimer makes of a timer's settings and its service's what a pack can do, and tells the rest.
func translateTimer(timer, service []setting, timezone string) *timerUnit {
	u := &timerUnit{folder: "/"} // where systemd starts what names no folder
	misfire, jitter := "none", ""
	var calendars, intervals []setting
	var boots []setting
	for _, s := range timer {
		switch {
		case s.section == "Install" || s.section == "Unit" && unitIgnored.MatchString(s.key) || s.section == "Timer" && timerIgnored.MatchString(s.key):
			if s.key == "Description" {
				u.about = s.value
			}
		case s.section == "Timer" && strings.HasPrefix(s.key, "On") && s.value == "":
			calendars, intervals, boots = nil, nil, nil // all of them are taken back
		case s.section == "Timer" && s.key == "OnCalendar":
			calendars = append(calendars, s)
		case s.section == "Timer" && s.key == "OnUnitActiveSec":
			intervals = append(intervals, s)
		case s.section == "Timer" && (s.key == "OnBootSec" || s.key == "OnStartupSec" || s.key == "OnActiveSec"):
			boots = append(boots, s)
		case s.section == "Timer" && s.key == "Persistent":
			if misfire = "none"; isYes.MatchString(s.value) {
				misfire = "latest"
			}
		case s.section == "Timer" && s.key == "RandomizedDelaySec":
			delay, err := parseTimespan(s.value)
			if err != nil {
				u.leave(s, "%v", err)
			} else if jitter = ""; delay > 0 {
				jitter = delay.String()
			}
		case s.section == "Timer" && (s.key == "WakeSystem" || s.key == "FixedRandomDelay" || s.key == "OnClockChange" || s.key == "OnTimezoneChange") && !isYes.MatchString(s.value):
		case s.key == "OnUnitInactiveSec":
			u.leave(s, "an interval is counted from start to start here, and not from an end")
		default:
			u.leave(s, "nothing here does what %s is for", s.key)
		}
	}
	for _, s := range calendars {
		expression, zone, err := cronOfCalendar(s.value, timezone)
		if err != nil {
			u.leave(s, "%v", err)
			continue
		}
		parameters := map[string]any{"expression": expression, "timezone": zone}
		if _, bad := reconcile.ParseSchedule("cron", parameters, time.Time{}); bad != nil {
			u.leave(s, "its schedule cannot be read: %s", bad.Message)
			continue
		}
		parameters["misfire"] = misfire
		u.add("core.crontimer", parameters, jitter, s)
	}
	for _, s := range intervals {
		every, err := parseTimespan(s.value)
		if err == nil && (every < time.Second || every%time.Second != 0) {
			err = fmt.Errorf("an interval of %s is no whole number of seconds", s.value)
		}
		if err != nil {
			u.leave(s, "%v", err)
			continue
		}
		u.add("core.intervaltimer", map[string]any{"unit": "seconds", "interval": int64(every / time.Second), "misfire": "none"}, jitter, s)
	}
	for _, s := range boots {
		if len(intervals) == 0 {
			u.leave(s, "there is no trigger for the start of the machine")
		}
	}
	for _, s := range service {
		u.service(s)
	}
	return u
}

func (u *timerUnit) add(ref string, parameters map[string]any, jitter string, s setting) {
	if jitter != "" {
		parameters["jitter"] = jitter
	}
	u.triggers = append(u.triggers, timerTrigger{ref, parameters, s.line})
}

// service takes one setting of the service.
func (u *timerUnit) service(s setting) {
	if s.section == "Install" || s.section == "Unit" && unitIgnored.MatchString(s.key) || s.section == "Service" && serviceIgnored.MatchString(s.key) {
		if s.key == "Description" && u.about == "" {
			u.about = s.value
		}
		return
	}
	if s.section != "Service" {
		switch s.key {
		case "OnFailure", "OnSuccess":
			u.leave(s, "a rule on core.execution_finished does that")
		default:
			u.leave(s, "nothing here does what %s is for", s.key)
		}
		return
	}
	plain := func(into *string) {
		if strings.Contains(s.value, "%") {
			u.leave(s, "specifiers (%%) are not known here")
			return
		}
		*into = s.value
	}
	switch s.key {
	case "Type":
		if s.value != "oneshot" && s.value != "simple" && s.value != "exec" {
			u.leave(s, "an action is done when its process ends: type %s is something else", s.value)
		}
	case "ExecStartPre", "ExecStart", "ExecStartPost":
		u.command(s)
	case "Environment":
		u.environment(s)
	case "User":
		plain(&u.user)
	case "Group":
		plain(&u.group)
	case "WorkingDirectory":
		plain(&u.folder)
	case "TimeoutStartSec", "TimeoutSec", "RuntimeMaxSec":
		if limit, err := parseTimespan(s.value); err != nil {
			u.leave(s, "%v", err)
		} else if limit > 0 {
			u.timeout = limit.String()
		}
	case "MemoryMax":
		switch {
		case s.value == "infinity":
		case regexp.MustCompile(`^\d+[KMG]$`).MatchString(s.value):
			u.memory = s.value + "iB"
		default:
			u.leave(s, "expected a size such as 512M")
		}
	case "Restart":
		if s.value != "no" {
			u.leave(s, "an action is tried again by `retry`")
		}
	default:
		u.leave(s, "nothing here does what %s is for", s.key)
	}
}

// environment reads NAME=value pairs, each of which may be quoted as a whole.
func (u *timerUnit) environment(s setting) {
	if s.value == "" {
		u.env = nil
		return
	}
	words, err := unitWords(s.value)
	if err != nil {
		u.leave(s, "%v", err)
		return
	}
	for _, word := range words {
		name, value, ok := strings.Cut(word.text, "=")
		switch {
		case !ok || !shellName.MatchString(name):
			u.leave(s, "%q is no NAME=value", word.text)
		case strings.Contains(strings.ReplaceAll(value, "%%", ""), "%"):
			u.leave(s, "specifiers (%%) are not known here")
		default:
			u.env = setVariable(u.env, name, strings.ReplaceAll(value, "%%", "%"))
		}
	}
}

// command turns a command line of systemd's into one of the shell's.
func (u *timerUnit) command(s setting) {
	priority := map[string]int{"ExecStartPre": 0, "ExecStart": 1, "ExecStartPost": 2}[s.key]
	if s.value == "" {
		u.commands = slices.DeleteFunc(u.commands, func(c unitCommand) bool { return c.priority == priority })
		return
	}
	c := unitCommand{setting: s, priority: priority}
	line := s.value
	for line != "" && strings.ContainsRune("@-:+!", rune(line[0])) {
		switch line[0] {
		case '-':
			c.mayFail = true
		default:
			u.leave(s, "the prefix %q of a command is not known here", line[:1])
			return
		}
		line = line[1:]
	}
	words, err := unitWords(line)
	if err != nil {
		u.leave(s, "%v", err)
		return
	}
	var quoted []string
	for _, word := range words {
		text, err := word.shell()
		if err != nil {
			u.leave(s, "%v", err)
			return
		}
		quoted = append(quoted, text)
	}
	if c.shell = strings.Join(quoted, " "); c.shell == "" {
		u.leave(s, "there is no command")
		return
	}
	u.commands = append(u.commands, c)
}

// unitWord is a word of a command line.
type unitWord struct {
	text  string
	isRaw bool // it was not quoted at all
}

// unitWords splits a line as systemd.service(5) has it: by blanks, with quotes around words and escapes as in C.
func unitWords(line string) ([]unitWord, error) {
	var words []unitWord
	var word strings.Builder
	inWord, quoted, quote := false, false, byte(0)
	end := func() {
		if inWord {
			words = append(words, unitWord{word.String(), !quoted})
		}
		word.Reset()
		inWord, quoted = false, false
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, inWord, quoted = c, true, true
		case c == '\\' && i+1 < len(line):
			i++
			text, ok := map[byte]string{'n': "\n", 't': "\t", 's': " ", '\\': `\`, '"': `"`, '\'': `'`}[line[i]]
			if !ok {
				return nil, fmt.Errorf("the escape \\%c is not known here", line[i])
			}
			word.WriteString(text)
			inWord = true
		case quote == 0 && (c == ' ' || c == '\t'):
			end()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote (%c) is not closed", quote)
	}
	end()
	return words, nil
}

var unitVariable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$[A-Za-z_][A-Za-z0-9_]*|\$\$|%%|%|\$`)

// shell quotes a word so that the shell makes of it what systemd does: ${NAME} is its value, $NAME alone is as
// many words as that has, and nothing else is expanded.
func (w unitWord) shell() (string, error) {
	var out strings.Builder
	rest := w.text
	isPlain := regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)
	literal := func(text string) {
		if text == "" {
			return
		}
		if isPlain.MatchString(text) {
			out.WriteString(text)
		} else {
			out.WriteString(shellQuote(text))
		}
	}
	for rest != "" {
		at := unitVariable.FindStringIndex(rest)
		if at == nil {
			literal(rest)
			break
		}
		literal(rest[:at[0]])
		switch found := rest[at[0]:at[1]]; {
		case found == "$$":
			literal("$")
		case found == "%%":
			literal("%")
		case found == "%":
			return "", errors.New("specifiers (%) are not known here")
		case found == "$":
			literal("$")
		case found[1] == '{':
			out.WriteString(`"` + found + `"`)
		case found == w.text && w.isRaw:
			out.WriteString(found)
		default:
			literal(found) // inside of a word systemd leaves it
		}
		rest = rest[at[1]:]
	}
	if out.Len() == 0 {
		return "''", nil
	}
	return out.String(), nil
}

// timespanUnits are those of systemd.time(7) that can be meant here.
var timespanUnits = map[string]time.Duration{
	"": time.Second, "us": time.Microsecond, "usec": time.Microsecond, "ms": time.Millisecond, "msec": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

var timespanPart = regexp.MustCompile(`^\s*(\d+)\s*([a-z]*)`)

// parseTimespan reads "5min 20s"; infinity, and 0, are none.
func parseTimespan(text string) (time.Duration, error) {
	if text == "infinity" {
		return 0, nil
	}
	var total time.Duration
	rest := text
	for strings.TrimSpace(rest) != "" {
		m := timespanPart.FindStringSubmatch(rest)
		if m == nil {
			return 0, fmt.Errorf("%q is no time span such as 5min or 1h 30min", text)
		}
		unit, known := timespanUnits[m[2]]
		n, err := strconv.ParseInt(m[1], 10, 32)
		if !known || err != nil {
			return 0, fmt.Errorf("%q is no time span such as 5min or 1h 30min", text)
		}
		total += time.Duration(n) * unit
		rest = rest[len(m[0]):]
	}
	return total, nil
}

// calendarWords are the words that stand for a whole calendar event.
var calendarWords = map[string]string{
	"minutely": "0 * * * * *", "hourly": "0 0 * * * *", "daily": "0 0 0 * * *", "weekly": "0 0 0 * * MON", "monthly": "0 0 0 1 * *",
	"quarterly": "0 0 0 1 1,4,7,10 *", "semiannually": "0 0 0 1 1,7 *", "yearly": "0 0 0 1 1 *", "annually": "0 0 0 1 1 *",
}

var (
	calendarDays  = regexp.MustCompile(`(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*(?:(?:,|\.\.|-)(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*)*$`)
	calendarDay   = regexp.MustCompile(`(?i)[a-z]+`)
	calendarDate  = regexp.MustCompile(`^(?:([0-9*,./]+)-)?([0-9*,./]+)-([0-9*,./~]+)$`)
	calendarTime  = regexp.MustCompile(`^([0-9*,./]+):([0-9*,./]+)(?::([0-9*,./]+))?$`)
	calendarField = regexp.MustCompile(`^(?:\*|\d+(?:\.\.\d+)?)(?:/\d+)?$`)
)

// cronOfCalendar turns a calendar event of systemd.time(7) into six fields of cron's, and a time zone.
func cronOfCalendar(text, timezone string) (expression, zone string, err error) {
	words := strings.Fields(text)
	if n := len(words); n > 1 {
		last := words[n-1]
		if _, err := time.LoadLocation(last); err == nil && (last == "UTC" || strings.Contains(last, "/")) && !calendarTime.MatchString(last) {
			timezone, words = last, words[:n-1]
		}
	}
	if len(words) == 1 {
		if fields, ok := calendarWords[strings.ToLower(words[0])]; ok {
			return fields, timezone, nil
		}
	}
	days, date, clock := "*", []string{"*", "*", "*"}, []string{"0", "0", "0"}
	for i, word := range words {
		switch {
		case i == 0 && calendarDays.MatchString(word):
			days = calendarDay.ReplaceAllStringFunc(strings.ReplaceAll(word, "..", "-"), func(day string) string { return strings.ToUpper(day[:3]) })
		case calendarDate.MatchString(word):
			date = calendarDate.FindStringSubmatch(word)[1:]
		case calendarTime.MatchString(word):
			clock = calendarTime.FindStringSubmatch(word)[1:]
		default:
			return "", "", fmt.Errorf("%q of a calendar event cannot be said in cron's fields", word)
		}
	}
	if date[0] != "" && date[0] != "*" {
		return "", "", errors.New("cron's fields have no year; a single time is core.datetimetimer's")
	}
	if days != "*" && date[2] != "*" {
		return "", "", errors.New("cron takes a day of the week or one of the month, where this wants both")
	}
	if clock[2] == "" {
		clock[2] = "0"
	}
	fields := []string{clock[2], clock[1], clock[0], date[2], date[1], days}
	for i, field := range fields[:5] {
		var parts []string
		for part := range strings.SplitSeq(field, ",") {
			if !calendarField.MatchString(part) {
				return "", "", fmt.Errorf("%q of a calendar event cannot be said in cron's fields", part)
			}
			parts = append(parts, strings.ReplaceAll(part, "..", "-"))
		}
		fields[i] = strings.Join(parts, ",")
	}
	return strings.Join(fields, " "), timezone, nil
}

// script is what systemd would run.
func (u *timerUnit) script(unit string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# What %s ran.\n", oneLine(unit))
	for _, v := range u.env {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	folder, mayMiss := strings.CutPrefix(u.folder, "-")
	switch {
	case folder == "~":
		b.WriteString("cd || exit\n")
	case mayMiss:
		fmt.Fprintf(&b, "cd %s || true\n", shellQuote(folder))
	default:
		fmt.Fprintf(&b, "cd %s || exit\n", shellQuote(folder))
	}
	commands := slices.Clone(u.commands)
	slices.SortStableFunc(commands, func(a, b unitCommand) int { return a.priority - b.priority })
	for i, c := range commands {
		b.WriteString(c.shell)
		switch {
		case c.mayFail:
			b.WriteString(" || true")
		case i < len(commands)-1:
			b.WriteString(" || exit")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// files gives the pack's files by their paths, and the rules' names.
func (u *timerUnit) files(pack, unit string) (map[string][]byte, []string, error) {
	files := map[string][]byte{}
	var errs []error
	add := func(path string, v any) {
		text, err := manifest.FormatYAML(v)
		files[path], errs = text, append(errs, err)
	}
	about := u.about
	if about == "" {
		about = "What " + oneLine(unit) + " did."
	}
	add("pack.yaml", map[string]any{
		"ref": pack, "label": pack, "version": "1.0.0", "description": "Imported from " + oneLine(unit) + ".",
		"dependencies": []string{"core >= 1.0"}, "runtime_deps": []string{"shell"},
	})
	action := map[string]any{
		"name": pack, "description": about, "runner_type": "sh", "entry_point": pack + ".sh", "timeout": importedTimeout,
		// A unit that runs is not started a second time.
		"concurrency": map[string]any{"max": 1, "policy": "skip"},
	}
	if u.timeout != "" {
		action["timeout"] = u.timeout
	}
	if u.memory != "" {
		action["limits"] = map[string]any{"memory": u.memory}
	}
	if u.user != "" {
		action["run_as"] = u.user
		if u.group != "" {
			action["run_as"] = u.user + ":" + u.group
		}
	}
	add("actions/"+pack+".yaml", action)
	files["actions/"+pack+".sh"] = []byte(u.script(unit))
	var names []string
	for i, t := range u.triggers {
		name := pack
		if i > 0 {
			name = fmt.Sprintf("%s_%d", pack, i+1)
		}
		names = append(names, name)
		rule := map[string]any{
			"name": name, "description": fmt.Sprintf("Line %d of the timer.", t.line),
			"trigger": map[string]any{"ref": t.ref, "parameters": maps.Clone(t.parameters)},
			"action":  map[string]any{"ref": pack + "." + pack},
		}
		if u.isPart {
			rule["enabled"] = false
		}
		add("rules/"+name+".yaml", rule)
	}
	return files, names, errors.Join(errs...)
}
