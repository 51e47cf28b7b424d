// Package rule matches events against the enabled rules and stores both with what follows.
//
// An Index holds the rules of one generation by the trigger instance that they ask for; it is
// immutable, pure, and cheap to make from its predecessor. An Intake takes events from everybody,
// commits them in groups, and matches inside the transaction that stores them: the transaction knows
// the generation in force, and an index that is older is replaced before anything is matched. So an
// event is judged by the rules that were in force when it was stored, never by older ones.
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
//   - An enforcement that is in error has queued nothing, not even for those of its actions that
//     could have been: the parts of a rule stand or fall together. Its neighbours are not concerned.
package rule
