// Package child is the only place where processes begin and end: sensors, actions, probes of
// interpreters and the private PostgreSQL alike.
//
// What it promises:
//
//   - A child never outlives its run. Every process of a run carries ATTUNE_RUN_ID, leads or belongs to
//     a process group of its own and, where a cgroup v2 is delegated, sits in a cgroup of its own. When
//     the leader ends, what it left behind is killed; when the daemon ends, the keeper does it.
//   - A pid is signalled only while it cannot have been given to somebody else: the leader before it is
//     reaped, any other process through a pidfd or as an unreaped child of this process.
//   - Done means done: the leader is reaped, its tree is gone, its output is read to the end.
//   - Output is bounded in memory, whatever the child writes.
//   - A child gets descriptors 0, 1, 2 and what Spec.Files names; its environment is what Spec.Env says.
//
// What it refuses: to restart anything (that is policy, and its callers'), and to interpret output.
//
// The tree of a child is found in three ways, each for what the one before it misses. The process group
// has what did not ask to leave. This process is a subreaper, so whoever left by setsid becomes our
// child as soon as its parent is gone, and its environment says whose it was. A cgroup has everything,
// also a program that emptied its environment, but needs a delegated cgroup v2.
//
// A warm child is forked from a parent that is there already. The fork in between ends at once, so that
// the child is an orphan, which this process takes in: it is a child like any other, down to its exit
// status. It waits until it has its group, its mark, its limits and its streams, and only then begins.
//
// Lock order: Warm.mu before parent.mu before Runner.mu before Process.mu; neither is held over a fork, a wait or a write.
package child
