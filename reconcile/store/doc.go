// Package store is the only place that speaks to PostgreSQL. It promises the following, for one node
// or fifty, over crashes of nodes, of connections and of the server, as far as the server's own
// synchronous_commit goes.
//
// # Events
//
// An event that was committed is never lost, and one transaction stores it with the enforcements and
// executions that follow from it, matched by the rules in force at that commit. There is one
// enforcement for each event and rule, and one execution for each enforcement, place in the rule's
// actions and item: a unique key holds the first, and the executions are queued by the statement that draws
// the enforcement's number, which nobody else ever queues for. An event that carries an event_id is stored
// once, however often it is sent within [EventKeyWindow]. What PostgreSQL would refuse for its content is cleaned
// before it is sent, flagged, and never stops its neighbours.
//
// # The queue
//
// An execution that waits or runs has a row in attune.queue, which is small and all that there is of it. The
// statement that ends it moves it to attune.execution, the history, which is written once; the view
// attune.execution_now has both, and whoever reads sees it in one of them. A claim gives a node an attempt: a
// token and a lease of [LeaseDuration]. From then on
//   - only who holds the token can start, release or end the attempt; who comes late changes nothing,
//     and what it has to say is kept beside the attempt as evidence;
//   - the start is committed before the process is, so no process ran without an attempt's row;
//   - the claim itself is the start where its node says that it starts at once; what it does not start
//     after all, it releases, whatever was recorded;
//   - a claim that lapses before its start goes back to the queue and uses no attempt;
//   - an attempt that is given back because its node stops ([Outcome].Spare) does not count either, and
//     its execution keeps its place;
//   - an attempt that lapses after its start ends as lost, and is tried again only where the action
//     says so (on_lost: retry), at most [MaxLostAttempts] times where it names no number.
//
// Nothing is open or locked while a process runs. Times are the database's: nodes may have any clock. Its
// clock may be put forward or back: a lease that looks lapsed still is its node's, and nobody ends or takes
// what belongs to a node that was seen to renew within [LeaseDuration] by the clock of who would. What one
// attempt is refused, or a row that another session has locked, keeps no other from starting, ending or
// being renewed.
// Packs take turns; within a pack the higher priority goes first, then who was due first.
//
// # Versions
//
// A node of the version that was released before may go on beside one that has brought the database up to date;
// one that starts then refuses it. So a migration that changes what nodes write puts right what such a node goes
// on writing, and the next version drops that. No version was released that wrote differently from this one.
//
// # Concurrency
//
// An execution of an action with concurrency has a key when it is queued, and waits: it is claimed only
// after it was given one of the places under its key. It holds that place until it has ended or is put off
// to a later time, through retries at once and over the death of its node. Never more than max of a key
// hold one. Places are not kept in a counter but counted, in a transaction of its own that has the key's
// row for itself, right after whatever may have freed one; a sweep with each [Store.Reap] makes up for the
// times that a node died in between, and applies an edit of the action to what waits. What its policy
// makes of one too many is decided when it gets in line, which for a later time is then; skip spares what
// has begun before. An action's other executions pay nothing for this.
//
// # Notices
//
// What happens to Attune itself (an execution ends, a pack is applied or refused, a node comes or goes) is
// written into attune.notice by the very statement that has it happen, but only where an enabled rule
// listens: else that costs the look for one. It stays there until it is an event. A notice may be handed on
// more than once; its event_id has it stored once.
//
// # Leases
//
// What one node at a time may do, to apply packs or to run a sensor, is a row in attune.lease with a
// token, held like an attempt. [Store.ApplyAs] writes only while the leader's token counts, and
// [Store.CommitEvents] stores the events of a sensor, with its cursor, only while its own does. A sensor's
// lease that lapsed and that nobody else took is what it was: an outage of the database costs no event.
//
// # Statuses
//
// An execution's status changes along these lines only, and no status that is not on the left of one
// ever changes:
//
//	requested -> running     Claim
//	requested -> cancelled   Cancel; Reap, where it has expired
//	scheduled -> requested   Claim, when it is due; whatever frees a place, when it stands in line
//	scheduled -> cancelled   Cancel; Reap, where it has expired; Enqueue and whatever else admits, by its action's concurrency
//	running   -> requested   Release; Reap and LoseNode, before the start or where it is tried again
//	running   -> scheduled   Finish and Reap, where it is tried again later; PutOff and LineUp
//	running   -> succeeded   Finish
//	running   -> failed      Finish
//	running   -> timed_out   Finish
//	running   -> cancelled   Finish; Cancel, before the start; Release, where somebody asked for it
//	running   -> lost        Reap, LoseNode
//
// # Errors
//
// An error that [IsTransient] says is worth another try; the same call may be made again. Start,
// Finish, Release, Renew and Apply may be repeated although they had succeeded: they find their own
// work done. No error holds the connection string.
//
// # Locks
//
// Apply takes the catalog's advisory lock, then the generation for itself, and then writes what it
// likes. Whoever commits events takes a share of the generation first, then event keys, trigger
// instances, triggers and sensors. Of each of these, and of the queue, rows are locked in the order of
// their key. A key of concurrency is locked with nothing else in hand, and who has it waits for no row of
// the queue.
package store
