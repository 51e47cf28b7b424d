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
// # What a scan of a pack comes to
//
//	outcome  meaning                                      what follows
//	same     content, x bits and links are what they were  nothing, unless its row changed or what it names did
//	fresh    they are not                                  parse, check, plan, apply
//	gone     no folder, or no pack.yaml in it              it is disabled, with all that is in it
//	unsure   it is being written, or git is at work in it  another scan soon; until then it stays as it is
//
// A pack that is as it was is mostly known by one look at each of its folders and files: where a folder's own
// times stand, nothing came or went in it. With links, with something to say, on a file system that tells less,
// or while times are young, it is walked.
//
// Gone is not always believed: if over half of all packs vanish at once, a second scan 5 s later has to
// agree. A packs folder that cannot be read, or over which an empty file system is mounted, says
// nothing of its packs at all; it is tried each second.
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
//
// # When the folder does not rule
//
// A rollback puts the files of an older revision into force as a new one, and pins the pack to it: until
// it is unpinned, whatever its folder says, or becomes of it, is drift, told in plans, status and
// metrics, and not applied. The whole revision has to validate against what is in force, else nothing is
// done.
//
// A folder whose files are those of an older revision when this process first looks at it is a stale
// checkout more often than a wish: it is drift too, until its files become others or an operator applies
// it by force. While the process runs, older files are an edit like any other. The same goes for a node
// that comes to lead; a pack that its folders lack then is not removed either.
//
// A reconciler that only plans, or whose node follows another, applies nothing at all; then every
// difference is drift.
//
// Operators' switches are not of this package: the database keeps them, and what is put into force here
// leaves them as they are.
package reconcile
