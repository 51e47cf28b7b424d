package store

import (
	"fmt"
	"strings"
	"time"
)

// operatorsWord says who switched a thing off, since when, and why; empty: nobody did.
func operatorsWord(by string, at *time.Time, reason string) string {
	if by == "" {
		return ""
	}
	word := by + " disabled it"
	if at != nil {
		word += " at " + at.UTC().Format(time.RFC3339)
	}
	if reason != "" {
		word += " (" + reason + ")"
	}
	return word
}

// WhyDisabled tells everything because of which a component is not in force, as a sentence; empty: it is.
// pack is the row of its pack, which may be nil.
func WhyDisabled(r *Record, pack *PackRow) string {
	if r.Enabled {
		return ""
	}
	var reasons []string
	if !r.Present {
		reasons = append(reasons, "its manifest has vanished from the pack")
	}
	if word := operatorsWord(r.DisabledBy, r.DisabledAt, r.DisabledReason); word != "" {
		reasons = append(reasons, word)
	}
	if r.Present && !r.ManifestEnabled {
		reasons = append(reasons, "its manifest says enabled: false")
	}
	if pack != nil && r.Present && !pack.Enabled {
		reason := "pack " + pack.Ref + " is not in force"
		if why := pack.WhyDisabled(); why != "" {
			reason += ", because " + why
		}
		reasons = append(reasons, reason)
	}
	return strings.Join(reasons, ", and ")
}

// WhyDisabled tells everything because of which a pack is not in force, as a sentence; empty: it is.
func (p *PackRow) WhyDisabled() string {
	if p.Enabled {
		return ""
	}
	var reasons []string
	if !p.Present {
		reasons = append(reasons, "its folder is gone")
	}
	if word := operatorsWord(p.DisabledBy, p.DisabledAt, p.DisabledReason); word != "" {
		reasons = append(reasons, word)
	}
	switch {
	case p.Present && p.Manifest == nil:
		reasons = append(reasons, "its pack.yaml was never accepted")
	case p.Present && !p.ManifestEnabled:
		reasons = append(reasons, "its pack.yaml says enabled: false")
	}
	return strings.Join(reasons, ", and ")
}

// WayBack tells what brings a component that is not in force back; empty: nothing that could be said in a
// line. pack is the row of its pack, which may be nil.
func WayBack(r *Record, pack *PackRow) string {
	switch {
	case r.Enabled || !r.Present:
		return ""
	case pack != nil && pack.DisabledBy != "":
		return "`attune pack enable " + r.Pack + "` takes that back"
	case pack != nil && !pack.Enabled:
		return "see `attune pack show " + r.Pack + "`"
	case r.DisabledBy != "":
		return fmt.Sprintf("`attune %s enable %s` takes that back", r.Kind, r.Ref)
	default:
		return "edit " + r.Pack + "/" + r.File
	}
}

// SwitchedOff tells who has switched a component off, or its pack, whatever the files say, and what takes
// that back; empty: nobody has. Of one whose files are gone, or whose record is yet to come (r is nil), it tells
// what is so once they are there. pack is the row of its pack, which may be nil.
func SwitchedOff(r *Record, pack *PackRow) (why, wayBack string) {
	switch {
	case pack != nil && pack.DisabledBy != "":
		return "its pack is not in force, because " + operatorsWord(pack.DisabledBy, pack.DisabledAt, pack.DisabledReason),
			"`attune pack enable " + pack.Ref + "` takes that back"
	case r != nil && r.DisabledBy != "":
		return operatorsWord(r.DisabledBy, r.DisabledAt, r.DisabledReason), fmt.Sprintf("`attune %s enable %s` takes that back", r.Kind, r.Ref)
	default:
		return "", ""
	}
}
