// Package sensor supervises the sensor processes: it keeps the running set equal to the one that the
// catalog wants, and carries what they print to the Sink.
//
// Each sensor has one goroutine, which alone changes its state. It never acts on what happened, but on
// what is wanted at the moment: however many edits come while a sensor stops, it starts once, from the
// newest. The table says where each state leads; next is the same table as code.
//
//	state       when        then
//	stopped     wanted      starting
//	stopped     unneeded    idle
//	idle        wanted      starting
//	idle        unwanted    stopped
//	starting    started     running
//	starting    crashed     backoff
//	starting    refused     failed
//	starting    unwanted    stopped
//	starting    unneeded    idle
//	running     crashed     backoff
//	running     finished    waiting
//	running     refused     failed
//	running     changed     stopping
//	running     asked       stopping
//	running     silent      stopping
//	running     unwanted    stopping
//	running     unneeded    stopping
//	running     survived    unkillable
//	stopping    wanted      starting
//	stopping    crashed     backoff
//	stopping    unwanted    stopped
//	stopping    unneeded    idle
//	stopping    survived    unkillable
//	backoff     due         starting
//	backoff     changed     starting
//	backoff     asked       starting
//	backoff     unwanted    stopped
//	backoff     unneeded    idle
//	waiting     due         starting
//	waiting     changed     starting
//	waiting     asked       starting
//	waiting     unwanted    stopped
//	waiting     unneeded    idle
//	failed      changed     starting
//	failed      asked       starting
//	failed      unwanted    stopped
//	failed      unneeded    idle
//	unkillable  wanted      starting
//	unkillable  crashed     backoff
//	unkillable  finished    waiting
//	unkillable  refused     failed
//	unkillable  unwanted    stopped
//	unkillable  unneeded    idle
//
// What is promised:
//
//   - A line that a sensor wrote before it ended is taken, also when it ended because it was stopped:
//     its stdout is read to the end before another is started. Only kill -9 of the daemon can lose
//     what was in a pipe; event_id, cursor and ack are there for sensors that can replay.
//   - A second process of a sensor starts only after the first and its whole tree are dead. What does not die is
//     shown as unkillable, logged, counted in attune_unkillable_sensors_total and killed on; what the end of the
//     process meant (backoff, waiting, failed) holds once it is gone.
//   - A process belongs to the lease that it was started under. What it prints when another node has the
//     sensor is not stored, and ends it, whatever this node still believes.
//   - A sensor is restarted when its restart key changes, and else left alone.
//   - A sensor that fails is started again for ever, unless it says by exit 78 that only a change of
//     its configuration can help.
//   - A Sink that takes nothing holds the sensors back and loses nothing; their stderr is read on.
//   - Nothing that a sensor prints stops it, or harms another: what is no event is counted and logged.
//
// Lock order: Supervisor.mu before sensor.mu before the locks of a process; none is held over a wait,
// a start or a write to a child.
package sensor
