package timer

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// TestASimulatedDay runs a thousand timers for a day, in which the engine is killed and started again many
// times, so that some of what it printed is never stored, and the clock is set back and forth. What was
// due by the end is stored once, as far as each timer's policy makes up for it.
func TestASimulatedDay(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { simulateDay(t, rand.New(rand.NewPCG(seed, 92))) })
		})
	}
}

// dayTimers are the timers of the day. Half make up for all that was missed, half for the newest.
func dayTimers(start time.Time, random *rand.Rand) []Instance {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}
	timers := make([]Instance, 1000)
	for i := range timers {
		since := start.Add(-time.Duration(random.IntN(3600)) * time.Second)
		policy := []any{"misfire", "all", "misfire_window", "48h"}
		if i%2 == 1 {
			policy = []any{"misfire", "latest", "misfire_window", "48h"}
		}
		if i%5 == 0 {
			policy = append(policy, "jitter", 1+random.IntN(90))
		}
		switch random.IntN(4) {
		case 0:
			expression := fmt.Sprintf("%d */%d * * *", random.IntN(60), 1+random.IntN(6))
			timers[i] = instance(cronTimer, since, append(policy, "expression", expression, "timezone", zones[random.IntN(len(zones))])...)
		case 1:
			at := start.Add(time.Duration(random.IntN(86400)) * time.Second)
			timers[i] = instance(dateTimer, since, append(policy, "fire_at", at.Format(time.RFC3339))...)
		default:
			timers[i] = every(since, 600+random.IntN(20_000), policy...)
		}
		timers[i].Instance = fmt.Sprintf("%s#%d", timers[i].Trigger, i)
	}
	return timers
}

func simulateDay(t *testing.T, random *rand.Rand) {
	start := time.Now().UTC()
	timers := dayTimers(start, random)
	// The database: what is stored by event_id, and how often it was printed.
	stored := map[string]time.Time{}
	last := map[string]time.Time{}
	store := func(events []event) {
		for _, e := range events {
			if e.printed.Before(e.Due) {
				t.Errorf("%s was fired %v before its time", e.EventID, e.Due.Sub(e.printed))
			}
			if _, there := stored[e.EventID]; there {
				t.Errorf("%s was fired again after it was stored", e.EventID)
			}
			stored[e.EventID] = e.Due
			if !e.Due.After(last[e.Instance]) {
				t.Errorf("%s came after %v", e.EventID, last[e.Instance])
			}
			last[e.Instance] = e.Due
		}
	}

	var ahead time.Duration
	var latest time.Time // that the clock ever showed
	for life := 0; latest.Before(start.Add(24 * time.Hour)); life++ {
		b := newBench()
		b.setClock(ahead)
		given := make([]Instance, len(timers))
		for i, in := range timers {
			if at, ok := last[in.Instance]; ok {
				in = in.withLast(at)
			}
			given[i] = in
		}
		if err := b.Set(given); err != nil {
			t.Fatal(err)
		}
		stop := b.start(t)
		for range random.IntN(4) {
			events := b.pass(time.Duration(random.IntN(600_000)) * time.Millisecond)
			store(events)
			// The clock is set: mostly a little, rarely by hours.
			jump := time.Duration(random.IntN(120_000)-60_000) * time.Millisecond
			if random.IntN(10) == 0 {
				jump = time.Duration(random.IntN(3*3600)-3600) * time.Second
			}
			ahead += jump
			b.setClock(ahead)
			latest = later(latest, b.clock())
		}
		events := b.pass(time.Duration(random.IntN(900)) * time.Second)
		stop()
		events = append(events, b.out.take()...)
		latest = later(latest, b.clock())
		// Killed: of what it printed last, some never got to the database.
		store(events[:len(events)-random.IntN(len(events)+1)])
		b.pass(time.Duration(random.IntN(300)) * time.Second)
	}

	// A last life in peace, until the clock is beyond all it ever showed.
	b := newBench()
	b.setClock(ahead)
	for i, in := range timers {
		if at, ok := last[in.Instance]; ok {
			timers[i] = in.withLast(at)
		}
	}
	if err := b.Set(timers); err != nil {
		t.Fatal(err)
	}
	stop := b.start(t)
	for ended := false; !ended; {
		ended = b.clock().After(latest.Add(2 * time.Minute))
		store(b.pass(2 * time.Minute))
	}
	end := b.clock()
	stop()
	checkDay(t, timers, start, end, stored, last)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// checkDay compares what is stored with what was due: all of it where the policy is all, and nothing
// that was not due; where it is latest, at least the newest.
func checkDay(t *testing.T, timers []Instance, start, end time.Time, stored, last map[string]time.Time) {
	t.Helper()
	const jitterMost = 90 * time.Second
	due := 0
	for _, in := range timers {
		schedule, err := reconcile.ParseSchedule(triggerTypes()[in.Trigger], in.Parameters, in.Since)
		if err != nil {
			t.Fatal(err)
		}
		from := in.Since
		if triggerTypes()[in.Trigger] == manifest.TriggerDatetime {
			from = start.Add(-time.Second)
		}
		var newest time.Time
		for at := schedule.Next(from); !at.IsZero() && !at.After(end.Add(-jitterMost)); at = schedule.Next(at) {
			newest = at
			id := in.Instance + "@" + at.Format(time.RFC3339)
			if _, there := stored[id]; !there && in.Parameters["misfire"] == reconcile.MisfireAll {
				t.Errorf("%s was lost", id)
			}
			due++
		}
		if !newest.IsZero() && last[in.Instance].Before(newest) {
			t.Errorf("the newest of %s is %v, want %v", in.Instance, last[in.Instance], newest)
		}
	}
	t.Logf("%d due, %d stored", due, len(stored))
	if due < 5000 {
		t.Errorf("only %d were due, which shows little", due)
	}
	for id, at := range stored {
		if at.After(end) {
			t.Errorf("%s is of the future", id)
		}
	}
}
