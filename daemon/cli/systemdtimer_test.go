package cli

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCronOfCalendar(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"daily":                      "0 0 0 * * * Europe/Berlin",
		"Weekly":                     "0 0 0 * * MON Europe/Berlin",
		"*-*-* 04:30":                "0 30 04 * * * Europe/Berlin",
		"Mon..Fri 22:30":             "0 30 22 * * MON-FRI Europe/Berlin",
		"Sat,Sunday *-*-* 9:00:15":   "15 00 9 * * SAT,SUN Europe/Berlin",
		"*:0/15":                     "0 0/15 * * * * Europe/Berlin",
		"*-*-01,15 12..14:00 UTC":    "0 00 12-14 01,15 * * UTC",
		"*-1/3-1 0:0 America/Regina": "0 0 0 1 1/3 * America/Regina",
		"Mon":                        "0 0 0 * * MON Europe/Berlin",
	} {
		expression, zone, err := cronOfCalendar(text, "Europe/Berlin")
		if err != nil || expression+" "+zone != want {
			t.Errorf("%s: found %q in %q, %v; want %q", text, expression, zone, err, want)
		}
	}
	for text, want := range map[string]string{
		"2026-01-01":      "no year",
		"Mon *-*-1 10:00": "wants both",
		"*-*~1":           "cannot be said",
		"*-*-* 10:00:1.5": "cannot be said",
		"tomorrow":        "cannot be said",
	} {
		if expression, _, err := cronOfCalendar(text, "UTC"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %q, %v; want %q", text, expression, err, want)
		}
	}
}

func TestParseTimespan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "5min 20s": 320 * time.Second, "1h30min": 90 * time.Minute, "2 weeks": 14 * 24 * time.Hour, "infinity": 0,
	} {
		if got, err := parseTimespan(text); err != nil || got != want {
			t.Errorf("%s: found %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"soon", "5 parsecs", "-3s", "1.5h"} {
		if got, err := parseTimespan(text); err == nil {
			t.Errorf("%s: found %v", text, got)
		}
	}
}

func TestTranslateTimer(t *testing.T) {
	t.Parallel()
	timer, left := readUnit("b.timer", `[Unit]
Description=Nightly
[Timer]
OnCalendar=*-*-* 03:00
OnCalendar=tomorrow
OnBootSec=5min
Persistent=yes
RandomizedDelaySec=10min
[Install]
WantedBy=timers.target
no assignment
`)
	service, more := readUnit("b.service", `[Unit]
After=network.target
ConditionACPower=true
[Service]
Type=oneshot
User=backup
Group=disk
WorkingDirectory=/srv/data
Environment="GREETING=it's me" LEVEL=3
Environment=COLOUR=red
ExecStartPre=-/bin/mkdir -p out
ExecStart=/usr/bin/backup --to "${LEVEL} a" $OPTS 'x y' \
    --cost=5$$
ExecStart=/bin/echo %i
TimeoutStartSec=10min
MemoryMax=512M
PrivateTmp=yes
`)
	left = append(left, more...)
	u := translateTimer(timer, service, "UTC")
	var told []string
	for _, l := range slices.Concat(left, u.left) {
		told = append(told, l.File+" "+l.Text)
	}
	want := []string{
		"b.timer no assignment", "b.timer OnCalendar=tomorrow", "b.timer OnBootSec=5min", "b.service ConditionACPower=true",
		"b.service ExecStart=/bin/echo %i", "b.service PrivateTmp=yes",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if len(u.triggers) != 1 || u.triggers[0].parameters["misfire"] != "latest" || u.triggers[0].parameters["jitter"] != "10m0s" {
		t.Errorf("%+v", u.triggers)
	}
	script := `#!/bin/sh
# What b.timer ran.
export GREETING='it'\''s me'
export LEVEL='3'
export COLOUR='red'
cd '/srv/data' || exit
/bin/mkdir -p out || true
/usr/bin/backup --to "${LEVEL}"' a' $OPTS 'x y' --cost=5'$'
`
	if diff := cmp.Diff(script, u.script("b.timer")); diff != "" {
		t.Error(diff)
	}
	files, names, err := u.files("b", "b.timer")
	if err != nil || !slices.Equal(names, []string{"b"}) {
		t.Fatal(names, err)
	}
	for name, wants := range map[string][]string{
		"actions/b.yaml": {"run_as: backup:disk", "timeout: 10m0s", "memory: 512MiB", "policy: skip", "description: Nightly"},
		"rules/b.yaml":   {"expression: 0 00 03 * * *", "timezone: UTC", "misfire: latest", "enabled: false"},
	} {
		for _, want := range wants {
			if !strings.Contains(string(files[name]), want) {
				t.Errorf("%s has no %q:\n%s", name, want, files[name])
			}
		}
	}
}

// An interval begins by itself, so what says when it first does is left out without a word.
func TestTranslateInterval(t *testing.T) {
	t.Parallel()
	timer, _ := readUnit("x.timer", "[Timer]\nOnBootSec=1min\nOnUnitActiveSec=1h\n")
	service, _ := readUnit("x.service", "[Service]\nExecStart=/bin/true\n")
	u := translateTimer(timer, service, "UTC")
	if len(u.left) > 0 || len(u.triggers) != 1 || u.triggers[0].parameters["interval"] != int64(3600) {
		t.Errorf("%+v", u)
	}
	files, _, err := u.files("x", "x.timer")
	if rule := string(files["rules/x.yaml"]); err != nil || rule == "" || strings.Contains(rule, "enabled") {
		t.Errorf("%v\n%s", err, rule)
	}
}

// Each setting of a unit, alone: what it makes of an action and its rules, and what is told of it.
func TestEachSetting(t *testing.T) {
	t.Parallel()
	const daily, truth = "[Timer]\nOnCalendar=daily\n", "[Service]\nExecStart=/bin/true\n"
	for _, c := range []struct {
		timer, service string
		has, hasNot    []string // in all files together
		left           []string
		isOff          bool
	}{
		{timer: daily, service: truth, has: []string{"misfire: none", "timeout: 24h", "description: What x.timer did."}, hasNot: []string{"run_as", "jitter", "memory", "timeout: 0s", "enabled"}},
		{timer: "# [Timer]\n; OnBootSec=1\n" + daily, service: truth},
		{timer: "OnCalendar=daily\n" + daily, service: truth, left: []string{"OnCalendar=daily"}},
		{timer: "[Timer\n" + daily, service: truth, left: []string{"[Timer"}},
		{timer: daily + "Persistent=no\n", service: truth, has: []string{"misfire: none"}},
		{timer: daily + "AccuracySec=1h\nUnit=x.service\nRemainAfterElapse=no\nWakeSystem=no\nFixedRandomDelay=no\nOnClockChange=false\nOnTimezoneChange=0\n", service: truth},
		{timer: daily + "WakeSystem=yes\n", service: truth, left: []string{"WakeSystem=yes"}},
		{timer: daily + "OnClockChange=yes\n", service: truth, left: []string{"OnClockChange=yes"}},
		{timer: "[Timer]\nOnCalendar=daily\nOnCalendar=\nOnCalendar=weekly\n", service: truth, has: []string{"0 0 0 * * MON"}, hasNot: []string{"x_2"}},
		{timer: daily + "OnCalendar=weekly\n", service: truth, has: []string{"name: x_2"}},
		{timer: daily + "OnUnitInactiveSec=1h\n", service: truth, left: []string{"OnUnitInactiveSec=1h"}},
		{timer: daily + "OnStartupSec=1h\n", service: truth, left: []string{"OnStartupSec=1h"}},
		{timer: daily + "OnActiveSec=1h\n", service: truth, left: []string{"OnActiveSec=1h"}},
		{timer: daily + "OnUnitActiveSec=500ms\n", service: truth, left: []string{"OnUnitActiveSec=500ms"}},
		{timer: daily + "OnUnitActiveSec=1500ms\n", service: truth, left: []string{"OnUnitActiveSec=1500ms"}},
		{timer: daily + "OnUnitActiveSec=soon\n", service: truth, left: []string{"OnUnitActiveSec=soon"}},
		{timer: daily + "OnCalendar=*-*-* 61:00\n", service: truth, left: []string{"OnCalendar=*-*-* 61:00"}},
		{timer: daily + "RandomizedDelaySec=soon\n", service: truth, left: []string{"RandomizedDelaySec=soon"}},
		{timer: daily + "RandomizedDelaySec=0\n", service: truth, hasNot: []string{"jitter"}},
		{timer: "[Service]\nOnCalendar=weekly\nPersistent=yes\n" + daily, service: truth, left: []string{"OnCalendar=weekly", "Persistent=yes"}, hasNot: []string{"MON", "latest"}},
		{timer: daily, service: "[Unit]\nDescription=What it is\n" + truth, has: []string{"description: What it is"}},
		{timer: "[Unit]\nDescription=The timer\n" + daily, service: "[Unit]\nDescription=The service\n" + truth, has: []string{"description: The timer"}},
		{timer: daily, service: truth + "StandardOutput=journal\nKillMode=mixed\n[Install]\nWantedBy=x\n"},
		{timer: daily, service: "[Unit]\nOnFailure=mail.service\n" + truth, left: []string{"OnFailure=mail.service"}},
		{timer: daily, service: "[X-Other]\nExecStart=/bin/false\n" + truth, left: []string{"ExecStart=/bin/false"}, hasNot: []string{"/bin/false"}},
		{timer: daily, service: truth + "Type=simple\n"},
		{timer: daily, service: truth + "Type=exec\n"},
		{timer: daily, service: truth + "Type=forking\n", left: []string{"Type=forking"}},
		{timer: daily, service: truth + "User=%i\n", left: []string{"User=%i"}, isOff: true},
		{timer: daily, service: truth + "User=ada\n", has: []string{"run_as: ada\n"}},
		{timer: daily, service: truth + "TimeoutStartSec=infinity\n", hasNot: []string{"timeout: 0s"}},
		{timer: daily, service: truth + "TimeoutSec=soon\n", left: []string{"TimeoutSec=soon"}},
		{timer: daily, service: truth + "MemoryMax=infinity\n", hasNot: []string{"memory"}},
		{timer: daily, service: truth + "MemoryMax=50%\n", left: []string{"MemoryMax=50%"}},
		{timer: daily, service: truth + "Restart=no\n"},
		{timer: daily, service: truth + "Restart=on-failure\n", left: []string{"Restart=on-failure"}},
		{timer: daily, service: truth + "Environment=A=1\nEnvironment=\nEnvironment=B=100%%\n", has: []string{"export B='100%'"}, hasNot: []string{"export A"}},
		{timer: daily, service: truth + "Environment=\"A=1\n", left: []string{"Environment=\"A=1"}, isOff: true},
		{timer: daily, service: truth + "Environment=nothing\n", left: []string{"Environment=nothing"}, isOff: true},
		{timer: daily, service: truth + "Environment=a-b=1\n", left: []string{"Environment=a-b=1"}, isOff: true},
		{timer: daily, service: truth + "Environment=A=%h\n", left: []string{"Environment=A=%h"}, isOff: true},
		{timer: daily, service: "[Service]\nExecStart=/bin/false\nExecStart=\nExecStart=/bin/true\n", hasNot: []string{"/bin/false"}},
		{timer: daily, service: "[Service]\nExecStart=/bin/true\nExecStartPost=/bin/after\nExecStartPre=/bin/before\n", has: []string{"\n/bin/before || exit\n/bin/true || exit\n/bin/after\n"}},
		{timer: daily, service: truth + "ExecStart=+/bin/root\n", left: []string{"ExecStart=+/bin/root"}, isOff: true},
		{timer: daily, service: truth + "ExecStart=/bin/x 'a\n", left: []string{"ExecStart=/bin/x 'a"}, isOff: true},
		{timer: daily, service: truth + "ExecStart=/bin/x \\q\n", left: []string{"ExecStart=/bin/x \\q"}, isOff: true},
		{timer: daily, service: truth + "ExecStart=-\n", left: []string{"ExecStart=-"}, isOff: true},
		{timer: daily, service: "[Service]\nExecStart=/bin/x a\\sb\t\"c\" '' 5% %% $ x$HOME \"$HOME\" $HOME\n", left: []string{"ExecStart=/bin/x a\\sb\t\"c\" '' 5% %% $ x$HOME \"$HOME\" $HOME"}, isOff: true},
		{timer: daily, service: "[Service]\nExecStart=/bin/x a\\sb\t\"c\" '' 5%% $ x$HOME \"$HOME\" $HOME\n", has: []string{"/bin/x 'a b' c '' 5% '$' x'$HOME' '$HOME' $HOME\n"}},
		{timer: daily, service: "[Service]\nExecStart=/bin/x \\\n# a comment\n; another\n  y \\\n\n", has: []string{"\n/bin/x y\n"}},
		{timer: daily, service: truth + "WorkingDirectory=~\n", has: []string{"\ncd || exit\n"}},
		{timer: daily, service: truth + "WorkingDirectory=-/srv\n", has: []string{"\ncd '/srv' || true\n"}},
	} {
		timer, left := readUnit("x.timer", c.timer)
		service, more := readUnit("x.service", c.service)
		u := translateTimer(timer, service, "UTC")
		var told []string
		for _, l := range slices.Concat(left, more, u.left) {
			told = append(told, l.Text)
		}
		if !slices.Equal(told, c.left) {
			t.Errorf("%q, %q: left out %q, expected %q", c.timer, c.service, told, c.left)
		}
		if u.isPart != c.isOff {
			t.Errorf("%q, %q: in part: %v", c.timer, c.service, u.isPart)
		}
		files, _, err := u.files("x", "x.timer")
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, name := range slices.Sorted(maps.Keys(files)) {
			all.Write(files[name])
		}
		for _, want := range c.has {
			if !strings.Contains(all.String(), want) {
				t.Errorf("%q, %q: there is no %q in\n%s", c.timer, c.service, want, all.String())
			}
		}
		for _, word := range c.hasNot {
			if strings.Contains(all.String(), word) {
				t.Errorf("%q, %q: there is a %q in\n%s", c.timer, c.service, word, all.String())
			}
		}
	}
}
