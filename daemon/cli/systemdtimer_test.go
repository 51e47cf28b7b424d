package cli

import (
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
