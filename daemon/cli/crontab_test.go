package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A crontab is read as cron reads it: what a line does depends on those above it, and what is left out is told.
func TestCrontab(t *testing.T) {
	t.Parallel()
	const text = "# comment\r\n" +
		"  # another\n" +
		"A = \"first # no comment\"\n" +
		"\"B\"='it''s'\n" +
		"'C'=\"half'\n" +
		"TZ=Asia/Tokyo\n" +
		"MAILTO=\"\"\n" +
		"@Weekly one\n" +
		"A=second\n" +
		"SHELL=/bin/bash\n" +
		"@MONTHLY two\r\n" +
		"CRON_TZ=Europe/Berlin\n" +
		"SHELL=/bin/sh\n" +
		"-1,2 * * * SUN three 5\\%%in%%put\\%\r\n" +
		"@hourly four\n" +
		"@reboot five\n" +
		"@Reboot six\n" +
		"@fortnightly seven\n" +
		"* * * * *\n" +
		"MAILTO=ada@example.org\n" +
		"MAILFROM=ada@example.org\n" +
		"\"A B\"=1\n" +
		"SHELL=/bin/zsh\n" +
		"@daily eight\n" +
		"D=late"
	jobs, left := readCrontab("tab", text, false, "UTC")
	var have []string
	for _, j := range jobs {
		var env []string
		for _, v := range j.env {
			env = append(env, v[0]+"="+v[1])
		}
		line := strings.Join([]string{j.schedule, j.timezone, j.shell, strings.Join(env, ","), j.command}, "|")
		if j.hasStdin {
			line += "|" + j.stdin
		}
		have = append(have, line)
	}
	const rest = ",B=it''s,C=\"half',TZ=Asia/Tokyo|"
	if diff := cmp.Diff([]string{
		"0 0 * * 0|UTC|sh|A=first # no comment" + rest + "one",
		"0 0 1 * *|UTC|shell|A=second" + rest + "two",
		"1,2 * * * SUN|Europe/Berlin|sh|A=second" + rest + "three 5%|in\n\nput%",
		"0 * * * *|Europe/Berlin|sh|A=second" + rest + "four",
	}, have); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	have = nil
	for _, l := range left {
		have = append(have, strings.Join([]string{l.Text, l.Why}, "|"))
	}
	const once = "there is no trigger for the start of the machine: put it into a unit of systemd's"
	if diff := cmp.Diff([]string{
		"@reboot five|" + once,
		"@Reboot six|" + once,
		"@fortnightly seven|@fortnightly is not known",
		"* * * * *|there is no command",
		"MAILTO=ada@example.org|nothing is mailed: output is kept with each execution, and a failure can be acted on by a rule on core.execution_finished",
		"MAILFROM=ada@example.org|MAILFROM has no meaning here",
		"\"A B\"=1|\"A B\" is no name of a variable that a shell can have",
		"SHELL=/bin/zsh|shell /bin/zsh is not one that actions run in: the lines below it are left out",
		"@daily eight|its SHELL is not one that actions run in",
	}, have); diff != "" {
		t.Errorf("what is left out (-want +got):\n%s", diff)
	}
}

// A system's crontab has a column of users, also behind a nickname.
func TestCrontabOfASystem(t *testing.T) {
	t.Parallel()
	jobs, left := readCrontab("tab", "17 * * * *\troot  cd /\n@daily nobody true\n@daily\n0 0 * * * root\n", true, "UTC")
	if len(jobs) != 2 || jobs[0].user != "root" || jobs[0].command != "cd /" || jobs[1].user != "nobody" || jobs[1].command != "true" {
		t.Errorf("found %+v", jobs)
	}
	if len(left) != 2 || left[0].Line != 3 || left[0].Why != "expected a user before the command" || left[1].Why != "there is no command" {
		t.Errorf("left out: %+v", left)
	}
}

// What the shell is given means to it what it meant to cron.
func TestScriptOfACronJob(t *testing.T) {
	t.Parallel()
	job := cronJob{line: 3, shell: "shell", env: [][2]string{{"A", `it's "$B"`}}, command: "cat", stdin: "$HOME\nend", hasStdin: true}
	const want = `#!/bin/bash
# Line 3 of the crontab.
export A='it'\''s "$B"'
cd || exit # cron starts in the home folder
printf '%s\n' '$HOME
end' | {
cat
}
`
	if diff := cmp.Diff(want, job.script()); diff != "" {
		t.Errorf("the script (-want +got):\n%s", diff)
	}
}

// Each line has a name of its own, whatever it runs.
func TestNamesOfCronJobs(t *testing.T) {
	t.Parallel()
	taken := map[string]bool{}
	for _, c := range [][2]string{
		{"/usr/bin/Backup.sh --all", "Backup"}, {"backup", "backup_2"}, {"cd / && A=1 backup.py", "backup_3"}, {"[ -x /x ]", "x"}, {"$X", "job"}, {"--", "job_2"},
	} {
		if have := cronName(c[0], taken); have != c[1] {
			t.Errorf("%q is called %q, want %q", c[0], have, c[1])
		}
	}
}
