// Package reconcile makes the database equal to the packs folder, and keeps it so.
//
// # The loop
//
//	dirty ── scan ── parse, check ── plan ── apply ── announce
//
// Events, overflows, timers, signals and commands only say that something may have changed. One
// goroutine then looks, compares by content with what is in force, and applies the difference. The
// same files always lead to the same plan, by whatever way they came to be, and where nothing differs
// nothing is written.
//
// What is never done: a file that cannot be read is never taken for one that was deleted; a packs
// folder that is away takes no pack with it; a broken file takes nothing with it but what it
// describes, whose last good version stays; a revision is never made of what was read while it
// changed; a row is never deleted.
//
// # A pack between two passes
//
//	state      meaning                                         leaves it by
//	current    files and rows agree, or the rest is told        a window opens; a row changes
//	open       changes came in; waits for quiet, 2 s at most    its window closes: a scan
//	unsure     a scan found it being written, or git at work    the next scan, soon
//	stale      it differs from what was compared last           a plan: current, or stale until applied
//	vanished   its folder or pack.yaml is gone                  a plan that disables it; its return
//	held       over half of the packs vanished at once          a second scan 5 s later; their return
//	away       its packs folder cannot be read                  the folder's return
//
// # How long a change waits
//
// A window opens at a pack's first change. It closes 250 ms after the last one, after 25 ms if all that
// happened is that one path appeared with its content (an editor's rename into place), and in any case
// 2 s after it opened. Each pack has its own, so one that is written for ever delays no other.
//
// # Components
//
// Each component is accepted or refused by itself. What is accepted moves to the pack's new revision
// together, so a script always runs with the libraries that it was accepted with; what is refused
// stays at the revision that it came from.
package reconcile
