package daemon

import (
	"bytes"
	"regexp"
	"sync"
	"testing"
)

func TestLoggerFormats(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		"text":    `^time=\S+ level=WARN msg="it is so" component=x g\.k="a\\nb"\n$`,
		"auto":    `^time=\S+ level=WARN msg="it is so" component=x g\.k="a\\nb"\n$`,
		"json":    `^\{"time":"[^"]+","level":"WARN","msg":"it is so","component":"x","g":\{"k":"a\\nb"\}\}\n$`,
		"journal": `^<4>msg="it is so" component=x g\.k="a\\nb"\n$`,
	} {
		var out bytes.Buffer
		log, err := NewLogger(&out, LogConfig{Level: "info", Format: format})
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("not this")
		log.With("component", "x").WithGroup("g").Warn("it is so", "k", "a\nb")
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%s: found %s", format, out.String())
		}
	}
	for _, bad := range []LogConfig{{Level: "loud", Format: "text"}, {Level: "info", Format: "xml"}} {
		if _, err := NewLogger(&bytes.Buffer{}, bad); err == nil {
			t.Errorf("%+v: accepted", bad)
		}
	}
}

// Lines of many goroutines keep their own priorities.
func TestJournalPriorities(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(&out, LogConfig{Level: "debug", Format: "journal"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const each = 50
	for range each {
		wg.Go(func() { log.Debug("seven") })
		wg.Go(func() { log.With("a", 1).Info("six") })
		wg.Go(func() { log.WithGroup("g").Warn("four") })
		wg.Go(func() { log.Error("three") })
	}
	wg.Wait()
	for _, line := range []string{`<7>msg=seven`, `<6>msg=six a=1`, `<4>msg=four`, `<3>msg=three`} {
		if n := len(regexp.MustCompile(`(?m)^`+line+`$`).FindAll(out.Bytes(), -1)); n != each {
			t.Errorf("found %d lines %s, want %d", n, line, each)
		}
	}
}
