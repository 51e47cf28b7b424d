// Package worker runs queued actions as processes.
//
// The life of an execution is in the database, and its node only holds a lease on it:
//
//	requested ── claim ──▶ running ── finish ──▶ succeeded, failed, timed_out, cancelled
//	    ▲                     │ └──── reap ─────▶ lost
//	    └── scheduled ◀───────┘ retry, release
//
// The life of an attempt is here:
//
//	claimed    a row with a token and a lease is ours; nothing has happened yet
//	prepared   files of the revision, interpreter, parameters, secrets and folders are there
//	started    the database has committed that it begins; from now on it counts as tried
//	running    the child lives; it ends by itself, or is stopped (see below)
//	ended      the child's tree is gone and its output is read; the slot is free again
//	finished   the database has committed the outcome; it is forgotten here
//
// What stops a running attempt, the first one counts:
//
//	timeout    its time is up                            timed_out, retried if retry says so
//	cancel     somebody asked                            cancelled
//	shutdown   the drain is over, or was hurried         queued again at once; it does not count
//	fence      no lease was renewed for fenceStop        failed, retried if on_lost says so
//	unheld     a renewal says that its token is void     its outcome is evidence only
//
// What it promises:
//
//   - An attempt starts at most once for its token, and only after the database has committed that it
//     starts. An attempt that was claimed and not started goes back to the queue, and used no attempt.
//   - Every write about an attempt carries its token, so who comes late changes nothing. Such writes are
//     counted in attune_fenced_writes_total.
//   - A node that cannot renew its leases stops its own children after fenceStop and kills them after
//     fenceKill, before anybody else may start the same execution. Time is counted on CLOCK_BOOTTIME, from
//     before a renewal was sent, so neither a suspended machine nor a slow answer makes it longer.
//   - Where a child cannot be ended, no attempt follows: it would be a second one beside the first.
//   - When a node dies, its keeper kills its children; the others see the lease lapse and end the
//     attempts as lost. No attempt is renewed that no one here knows of.
//   - An outcome that cannot be written is kept in memory and on disk until the database takes it. An
//     unknown commit is sent again: finishing twice by one token is finishing once. One that cannot be
//     written on its own account, because it is refused or its row is locked, is set aside, and the others
//     go on.
//   - A mistake of ours (a panic) costs the attempt that meets it, and nothing else. A loop that meets one begins
//     anew, a claim that did goes back to the queue, and an outcome over which we stumble is kept like one
//     that the database refuses. Each is logged with its stack and counted in attune_panics_total.
//   - Nothing in the database is open or locked while a child runs.
//   - While it drains, leases are renewed until the last attempt has finished.
//
// Where the files of an action's revision are in place, the claim itself records that the attempt begins;
// else its start is committed on its own, once it is prepared. While attempts are short, some are claimed
// ahead of their slots, so that a claim takes several and no slot waits for the database: as many as keep
// the slots busy for 25 ms, at most 16 for each worker. What has not begun when the daemon stops, or waits
// in vain, is released and used no attempt. If the daemon is killed, the next one of its machine gives them
// back by the notes that this one keeps. If the machine dies, or nobody comes after, those too are told as
// lost: never begun twice comes before never begun.
//
// What an event queues while this node has a free slot and knows of nothing else that waits is claimed in the
// event's own transaction (Reserve, Take), and its attempt begins when that is committed.
//
// Starts and outcomes are committed in groups: what comes while one commit is under way goes with the
// next. An outcome waits a few milliseconds for others only while attempts wait for slots.
//
// Lock order: Pool.mu before slots.mu and attempt.mu; neither is held over a statement, a start or a stop.
package worker
