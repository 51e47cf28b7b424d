// Package rule matches events against the enabled rules and stores both with what follows.
//
// An Index holds the rules of one generation by the trigger instance that they ask for, and by the value
// that the first term of their condition compares with; it is immutable, pure, and cheap to make from
// its predecessor. An Intake takes events from everybody,
// commits them in groups, and matches inside the transaction that stores them: the transaction knows
// the generation in force, and an index that is older is replaced before anything is matched. So an
// event is judged by the rules that were in force when it was stored, never by older ones. Where many
// come, the next group is inserted while one is inserted, matched and committed, by a transaction that has its numbers, and
// commits, after it; where few do, they gather meanwhile, for up to groupPace from the group before.
//
// What is promised:
//
//   - Events of one source are stored in the order in which they were handed over, provided that one
//     goroutine hands them over.
//   - An event whose done was called with nil is stored, with one enforcement for each rule that
//     matched or failed, and with its executions. Rules that did not match leave no trace.
//   - A database that is away delays events and loses none: the queue fills, and whoever hands over
//     waits. A commit whose outcome is unknown (the connection broke while it was under way) is tried
//     again; an event with an EventID is then recognised and stored once, one without may be stored
//     twice, for intake is at least once.
//   - A session that locks the lease of a sensor in the database delays the events of that sensor alone, once the
//     first of them has waited for it in vain: they are set aside, in their order, and the sensor waits.
//   - An event of a sensor that another node has by now is refused, and leaves no trace but a count.
//   - What throttle, debounce, dedupe and breaker leave of a match is decided by the store, in the same
//     transaction and in the order of the events, so that it holds over restarts and several nodes.
//     A rule that matched leaves an enforcement whatever they say: throttled, deduplicated or skipped.
//   - An enforcement that is in error has queued nothing, not even for those of its actions that
//     could have been: the parts of a rule stand or fall together. Its neighbours are not concerned.
//
// A Relay makes events of what happens to Attune itself. The executions that such events lead to are
// counted along the chain that they form, and a rule that would feed itself for ever is stopped: its
// enforcement is skipped and says so.
//
// An Index also explains: which part of a rule's condition failed for an event, with the values that it
// looked at. That evaluates anew and stores nothing; limits have no part in it.
package rule
