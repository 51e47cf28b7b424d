package manifest

import (
	"fmt"
	"strings"
)

// packDependencies refuses the packs whose dependencies are missing, of another version, or a cycle.
// A pack whose new state is refused still serves others with the version in force.
func (c *crossCheck) packDependencies() {
	for _, b := range c.bundles {
		if b.Pack == nil {
			continue
		}
		if cycle := c.cycle(b.Folder); cycle != nil {
			c.packError(b, b.Pack.Places.At("/dependencies/"+cycle[1]), "remove one of these dependencies",
				"cannot load pack %q: its dependencies form a cycle: %s", b.Folder, strings.Join(cycle, " -> "))
			c.settled[b.Folder] = true
		}
	}
	for _, b := range c.bundles {
		c.settlePack(b)
	}
}

// settlePack checks a pack after the packs that it needs. Cycles are settled before, so it ends.
func (c *crossCheck) settlePack(b *Bundle) {
	if c.settled[b.Folder] {
		return
	}
	c.settled[b.Folder] = true
	if b.Pack == nil {
		return
	}
	pack := b.Pack
	for _, need := range pack.Dependencies {
		if other := c.byFolder[need.Ref]; other != nil {
			c.settlePack(other)
		}
		problem, hint := c.unmet(need)
		if problem != "" {
			c.packError(b, pack.Places.At("/dependencies/"+escapePointer(need.Ref)), hint,
				"cannot load pack %q: it needs pack %q%s, %s", b.Folder, need.Ref, spaced(need.Version), problem)
		}
	}
	if refused := c.packRefused[b.Folder]; refused {
		b.refusePack()
	}
}

// unmet says why a needed pack will not do; "" where it does.
func (c *crossCheck) unmet(need Requirement) (problem, hint string) {
	other := c.packOf(need.Ref)
	switch {
	case other == nil && (c.byFolder[need.Ref] != nil || c.refusedFile(KindPack, need.Ref) != ""):
		return "which is refused itself", "correct that pack first"
	case other == nil:
		return "which is not there", fmt.Sprintf("add the folder %s, or remove the dependency", need.Ref)
	case !satisfies(other.Version, need.Version):
		return "found " + other.Version, fmt.Sprintf("update %s, or widen the range", need.Ref)
	}
	return "", ""
}

// packOf gives the pack as it will be: the new state where it is accepted, else the one in force.
func (c *crossCheck) packOf(ref string) *Pack {
	if b := c.byFolder[ref]; b != nil && b.Pack != nil && !c.packRefused[ref] {
		return b.Pack
	}
	return c.opts.InForce.Packs[ref]
}

// cycle gives the shortest way from a pack over its dependencies back to itself; nil where there is
// none.
func (c *crossCheck) cycle(start string) []string {
	before := map[string]string{}
	queue := []string{start}
	for len(queue) > 0 {
		ref := queue[0]
		queue = queue[1:]
		pack := c.packOf(ref)
		if b := c.byFolder[ref]; b != nil && b.Pack != nil {
			pack = b.Pack // refused by its own cycle already, which this pack may be part of
		}
		if pack == nil {
			continue
		}
		for _, need := range pack.Dependencies {
			if need.Ref == start {
				way := []string{start}
				for at := ref; at != start; at = before[at] {
					way = append([]string{at}, way...)
				}
				return append([]string{start}, way...)
			}
			if _, seen := before[need.Ref]; !seen {
				before[need.Ref] = ref
				queue = append(queue, need.Ref)
			}
		}
	}
	return nil
}

func spaced(versions string) string {
	if versions == "" {
		return ""
	}
	return " " + versions
}
