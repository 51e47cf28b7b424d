package reconcile

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestFirings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, kind string
		parameters map[string]any
		after      string
		want       [][2]string // local, note
	}{
		{
			"a fixed time that is skipped", manifest.TriggerCron,
			map[string]any{"expression": "30 2 * * *", "timezone": "Europe/Berlin"},
			"2026-03-27T12:00:00Z",
			[][2]string{
				{"2026-03-28T02:30:00+01:00", ""},
				{"2026-03-29T03:00:00+02:00", "instead of 02:30:00, which the clocks skip"},
				{"2026-03-30T02:30:00+02:00", ""},
			},
		},
		{
			"a fixed time that is repeated", manifest.TriggerCron,
			map[string]any{"expression": "30 2 * * *", "timezone": "Europe/Berlin"},
			"2026-10-24T12:00:00Z",
			[][2]string{
				{"2026-10-25T02:30:00+02:00", "the first of two: the clocks go back afterwards"},
				{"2026-10-26T02:30:00+01:00", ""},
				{"2026-10-27T02:30:00+01:00", ""},
			},
		},
		{
			"every hour", manifest.TriggerCron,
			map[string]any{"expression": "30 * * * *", "timezone": "Europe/Berlin"},
			"2026-10-25T00:00:00Z",
			[][2]string{
				{"2026-10-25T02:30:00+02:00", "the first of two: the clocks go back afterwards"},
				{"2026-10-25T02:30:00+01:00", "the second of two: the clocks went back"},
				{"2026-10-25T03:30:00+01:00", ""},
			},
		},
		{
			"an hour that is left out", manifest.TriggerCron,
			map[string]any{"expression": "30 * * * *", "timezone": "Europe/Berlin"},
			"2026-03-29T00:00:00Z",
			[][2]string{
				{"2026-03-29T01:30:00+01:00", ""},
				{"2026-03-29T03:30:00+02:00", "the clocks went from 02:00:00 to 03:00:00"},
				{"2026-03-29T04:30:00+02:00", ""},
			},
		},
		{
			"an interval", manifest.TriggerInterval,
			map[string]any{"interval": 90},
			"2026-03-29T00:00:00Z",
			[][2]string{{"2026-03-29T00:01:30Z", ""}, {"2026-03-29T00:03:00Z", ""}, {"2026-03-29T00:04:30Z", ""}},
		},
		{
			"once", manifest.TriggerDatetime,
			map[string]any{"fire_at": "2026-12-31T23:59:00", "timezone": "Asia/Tokyo"},
			"2026-03-29T00:00:00Z",
			[][2]string{{"2026-12-31T23:59:00+09:00", ""}},
		},
		{
			"never again", manifest.TriggerDatetime,
			map[string]any{"fire_at": "2025-12-31T23:59:00Z"},
			"2026-03-29T00:00:00Z", nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			after := utc(t, test.after)
			firings, err := Firings(test.kind, test.parameters, after, after, 3)
			if err != nil {
				t.Fatal(err)
			}
			var got [][2]string
			for _, f := range firings {
				if !f.At.Equal(f.Local) {
					t.Errorf("%v is not %v", f.At, f.Local)
				}
				got = append(got, [2]string{f.Local.Format(time.RFC3339), f.Note})
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("firings (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := Firings(manifest.TriggerCron, map[string]any{"expression": "nonsense"}, time.Time{}, time.Time{}, 3); err == nil {
		t.Error("an expression that cannot be read has firings")
	}
}
