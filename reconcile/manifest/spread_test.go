package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// What H comes to is a promise: a new version must not move everybody's nightly jobs.
func TestSpreadIsForEver(t *testing.T) {
	t.Parallel()
	tests := []struct{ expression, key, want string }{
		{"H * * * *", "shop.backup", "7 * * * *"},
		{"H H * * *", "shop.backup", "7 22 * * *"},
		{"H H * * *", "shop.report", "21 4 * * *"},
		{"H H H * * *", "shop.backup", "36 7 22 * * *"},
		{"H(0-29)/10 * * * *", "shop.backup", "7,17,27 * * * *"},
		{"H/15,59 9-17 H(1-31) H H", "shop.backup", "7,22,37,52,59 9-17 30 3 2"},
		{"h 3 * * thu", "shop.backup", "7 3 * * thu"},
		// What has no H, or is no expression, is not touched.
		{"0  3 * * THU", "shop.backup", "0  3 * * THU"},
		{"@hourly", "shop.backup", "@hourly"},
		{"H *", "shop.backup", "H *"},
		{"H(9-1) * * * *", "shop.backup", "H(9-1) * * * *"},
	}
	for _, test := range tests {
		if got := SpreadCron(test.expression, test.key); got != test.want {
			t.Errorf("SpreadCron(%q, %q) = %q, want %q", test.expression, test.key, got, test.want)
		}
	}
}

func TestSpreadIsEven(t *testing.T) {
	t.Parallel()
	const rules, minutes = 6000, 60
	counts := make([]int, minutes)
	together := 0
	for i := range rules {
		fields := strings.Fields(SpreadCron("H H * * *", fmt.Sprintf("p.rule_%d", i)))
		minute, err := strconv.Atoi(fields[0])
		if err != nil || minute < 0 || minute >= minutes {
			t.Fatalf("minute %q", fields[0])
		}
		hour, err := strconv.Atoi(fields[1])
		if err != nil || hour < 0 || hour > 23 {
			t.Fatalf("hour %q", fields[1])
		}
		counts[minute]++
		if minute%24 == hour {
			together++
		}
	}
	for minute, n := range counts {
		if n < rules/minutes/2 || n > rules/minutes*2 {
			t.Errorf("minute %d has %d of %d rules", minute, n, rules)
		}
	}
	if together > rules/12 {
		t.Errorf("minutes and hours move together in %d of %d rules", together, rules)
	}
}

func TestSpreadInstances(t *testing.T) {
	t.Parallel()
	trigger := &Trigger{Header: Header{Ref: "core.crontimer"}, Type: TriggerCron}
	given := map[string]any{"expression": "H 3 * * *"}
	one, canonical := trigger.Instance("p.one", given)
	two, _ := trigger.Instance("p.two", given)
	if one == two {
		t.Errorf("two rules share %s", one)
	}
	if again, _ := trigger.Instance("p.one", given); again != one {
		t.Errorf("found %s and %s for one rule", one, again)
	}
	spread := SpreadCron("H 3 * * *", "p.one")
	if canonical["expression"] != spread {
		t.Errorf("the instance has %v, want %q", canonical["expression"], spread)
	}
	if same, _ := trigger.Instance("p.other", map[string]any{"expression": spread}); same != one {
		t.Errorf("the same time by hand has another instance: %s and %s", same, one)
	}
	if given["expression"] != "H 3 * * *" {
		t.Errorf("the rule's own parameters became %v", given)
	}
	custom := &Trigger{Header: Header{Ref: "p.words"}}
	if _, kept := custom.Instance("p.one", given); kept["expression"] != "H 3 * * *" {
		t.Errorf("a trigger that is no cron has %v", kept)
	}
}
