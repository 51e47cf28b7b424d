package manifest

import (
	"fmt"
	"strings"
	"testing"
)

// Each idle key is told once, at its place, where it is given and not where it is switched off.
func TestIdleKeysAreTold(t *testing.T) {
	t.Parallel()
	for kind, keys := range idleKeys {
		for _, key := range keys {
			given := map[string]string{
				"concurrency": "{max: 1}", "expires": "1h", "watchdog": "1m", "ack": "true",
				"throttle": "{max: 1, per: 1m}", "debounce": "{window: 1s}", "dedupe": "{window: 1s}", "breaker": "{failures: 1}",
			}[key]
			if given == "" {
				t.Errorf("%s.%s is no key that this test knows", kind, key)
			}
			told := idleFindings(kind, key+": "+given)
			want := fmt.Sprintf("p/%s/x.yaml:1:1: cannot act on %q: this version reads it and does nothing about it; remove it, and what it promises with it", kind.Folder(), key)
			if len(told) != 1 || told[0] != want {
				t.Errorf("%s: found %q, expected %q", key, told, want)
			}
			if told := idleFindings(kind, key+": ~"); len(told) > 0 {
				t.Errorf("%s: ~ is told: %q", key, told)
			}
		}
	}
}

func idleFindings(kind Kind, line string) []string {
	rest := map[Kind]string{
		KindTrigger: "type: webhook\n", KindSensor: "trigger_types: [t]\n", KindRule: "trigger: core.t\naction: core.a\n",
	}[kind]
	b := Parse("p", map[string]File{
		"pack.yaml": {Content: []byte("version: 1.0.0\n")}, kind.Folder() + "/x.sh": {},
		kind.Folder() + "/x.yaml": {Content: []byte(line + "\n" + rest)},
	})
	var told []string
	for _, e := range b.Errors {
		if strings.Contains(e.Message, "does nothing about it") {
			told = append(told, e.Error())
		}
	}
	return told
}
