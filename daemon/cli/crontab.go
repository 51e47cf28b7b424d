package cli

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile"
)

// cronJob is one line of a crontab that becomes a rule and an action.
type cronJob struct {
	line     int
	text     string // the line as it stands
	schedule string // five fields
	timezone string
	user     string // empty: the crontab has no column of users
	shell    string // sh or shell
	env      [][2]string
	command  string
	stdin    string // what stands behind the first %
	hasStdin bool
}

// notTranslated is a line that the pack does not do, wholly or in part.
type notTranslated struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Text string `json:"text"`
	Why  string `json:"why"`
}

var (
	cronVariable = regexp.MustCompile(`^\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z_][A-Za-z0-9_]*))\s*=\s*(.*?)\s*$`)
	shellName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

	// cronField is what crontab(5) lets a field be made of.
	cronField = regexp.MustCompile(`(?i)^(?:[0-9*,/-]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)+$`)

	// cronNicknames are the words that stand for five fields.
	cronNicknames = map[string]string{
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
		"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
	}
)

// readCrontab reads a crontab as crontab(5) has it: environment lines count for the lines below them, a
// percent sign that is not escaped ends the command, and a system's crontab has a column of users.
func readCrontab(source, text string, system bool, timezone string) (jobs []cronJob, left []notTranslated) {
	var env [][2]string
	shell, mailTo := "sh", ""
	for i, line := range strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		number := i + 1
		leave := func(format string, args ...any) {
			left = append(left, notTranslated{File: source, Line: number, Text: line, Why: fmt.Sprintf(format, args...)})
		}
		trimmed := strings.TrimLeft(line, " \t")
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		if m := cronVariable.FindStringSubmatch(line); m != nil {
			name, value := m[1]+m[2]+m[3], unquoteCron(m[4])
			switch name {
			case "MAILTO":
				if mailTo = value; mailTo != "" {
					leave("nothing is mailed: output is kept with each execution, and a failure can be acted on by a rule on core.execution_finished")
				}
			case "CRON_TZ", "TZ":
				if name == "CRON_TZ" {
					timezone = value
				} else {
					env = setVariable(env, name, value)
				}
			case "SHELL":
				switch value {
				case "/bin/sh", "/usr/bin/sh":
					shell = "sh"
				case "/bin/bash", "/usr/bin/bash":
					shell = "shell"
				default:
					shell = ""
					leave("shell %s is not one that actions run in: the lines below it are left out", value)
				}
			case "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "RANDOM_DELAY":
				leave("%s has no meaning here", name)
			default:
				if !shellName.MatchString(name) {
					leave("%q is no name of a variable that a shell can have", name)
					continue
				}
				env = setVariable(env, name, value)
			}
			continue
		}
		job, why := readCronLine(trimmed, system)
		switch {
		case why != "":
			leave("%s", why)
			continue
		case shell == "":
			leave("its SHELL is not one that actions run in")
			continue
		}
		parameters := map[string]any{"expression": job.schedule, "timezone": timezone}
		if _, err := reconcile.ParseSchedule("cron", parameters, time.Time{}); err != nil {
			leave("its schedule %q cannot be read: %s", job.schedule, err.Message)
			continue
		}
		job.line, job.text, job.timezone, job.shell = number, line, timezone, shell
		job.env = append([][2]string(nil), env...)
		jobs = append(jobs, job)
	}
	return jobs, left
}

// setVariable sets a variable for the lines that follow.
func setVariable(env [][2]string, name, value string) [][2]string {
	for i := range env {
		if env[i][0] == name {
			changed := append([][2]string(nil), env...)
			changed[i][1] = value
			return changed
		}
	}
	return append(env, [2]string{name, value})
}

// unquoteCron takes off quotes that surround a whole value.
func unquoteCron(value string) string {
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		return value[1 : n-1]
	}
	return value
}

// readCronLine reads a line with a schedule; why says what of it cannot be translated.
func readCronLine(line string, system bool) (job cronJob, why string) {
	// A leading dash keeps cron from logging the line: here that is said elsewhere, and harms nobody.
	line = strings.TrimPrefix(line, "-")
	word, rest := cutWord(line)
	switch {
	case strings.EqualFold(word, "@reboot"):
		return job, "there is no trigger for the start of the machine: put it into a unit of systemd's"
	case strings.HasPrefix(word, "@"):
		fields, ok := cronNicknames[strings.ToLower(word)]
		if !ok {
			return job, fmt.Sprintf("%s is not known", word)
		}
		job.schedule = fields
	default:
		fields := []string{word}
		for len(fields) < 5 {
			if word, rest = cutWord(rest); word == "" {
				return job, "expected five fields and a command"
			}
			fields = append(fields, word)
		}
		for _, field := range fields {
			// H, L and the like would be read here, and mean something else to cron or nothing at all.
			if !cronField.MatchString(field) {
				return job, fmt.Sprintf("field %q is none of crontab(5)", field)
			}
		}
		job.schedule = strings.Join(fields, " ")
	}
	if system {
		if job.user, rest = cutWord(rest); job.user == "" {
			return job, "expected a user before the command"
		}
	}
	job.command, job.stdin, job.hasStdin = splitPercent(rest)
	if job.command == "" {
		return job, "there is no command"
	}
	return job, ""
}

// cutWord cuts the first word off a line.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.TrimLeft(line[i:], " \t")
	}
	return line, ""
}

// splitPercent splits at the first percent sign that is not escaped; the others in what follows are ends of
// lines, as cron gives them to the command.
func splitPercent(text string) (command, stdin string, hasStdin bool) {
	var parts [2]strings.Builder
	part := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] == '%':
			parts[part].WriteByte('%')
			i++
		case c == '%' && part == 0:
			part = 1
		case c == '%':
			parts[1].WriteByte('\n')
		default:
			parts[part].WriteByte(c)
		}
	}
	return strings.TrimSpace(parts[0].String()), parts[1].String(), part == 1
}

// script gives the shell script that does what cron did for the line.
func (j *cronJob) script() string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	if j.shell == "shell" {
		b.Reset()
		b.WriteString("#!/bin/bash\n")
	}
	fmt.Fprintf(&b, "# Line %d of the crontab.\n", j.line)
	for _, v := range j.env {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	b.WriteString("cd || exit # cron starts in the home folder\n")
	if j.hasStdin {
		// Nothing but the command's own status counts, as the last of a pipe.
		fmt.Fprintf(&b, "printf '%%s\\n' %s | {\n%s\n}\n", shellQuote(j.stdin), j.command)
		return b.String()
	}
	b.WriteString(j.command + "\n")
	return b.String()
}

func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// cronName makes a component's name of a command: that of its program.
func cronName(command string, taken map[string]bool) string {
	name := "job"
	for word := range strings.FieldsSeq(command) {
		if strings.ContainsAny(word, "=$") || word == "cd" || word == "test" || word == "[" || strings.HasPrefix(word, "-") {
			continue
		}
		base := word[strings.LastIndex(word, "/")+1:]
		base, _, _ = strings.Cut(base, ".")
		if clean := regexp.MustCompile(`[^A-Za-z0-9_-]+`).ReplaceAllString(base, ""); clean != "" {
			name = clean
			break
		}
	}
	name = strings.TrimLeft(name, "-")
	if name == "" {
		name = "job"
	}
	unique := name
	for n := 2; taken[strings.ToLower(unique)]; n++ {
		unique = fmt.Sprintf("%s_%d", name, n)
	}
	taken[strings.ToLower(unique)] = true
	return unique
}
