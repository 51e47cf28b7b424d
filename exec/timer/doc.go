// Package timer is the engine of core.interval_timer_sensor: a sensor like any other, that prints an
// event for each due time of each timer instance.
//
// What it promises:
//
//   - A due time is fired at most once in a run, and in order for each instance. Its event_id is made of
//     the instance and the due time, so that restarts and several nodes fire it once as well.
//   - An instance goes on after the due time of its last stored event, else from when it came to be: a
//     restart loses nothing that its misfire policy makes up for.
//   - Due times are of the wall clock, which is looked at again at least each 30 s. After a suspended
//     machine or a clock put forward, what was passed over is for the misfire policy. After a clock put
//     back, nothing fires again: it waits until the clock is where it was, but not longer than a day, as
//     then the clock was wrong before.
//   - A bad instance costs nothing but itself.
//
// An instance's due time that comes while the engine runs is fired even when it is a little late, up to
// lateAfter, whatever the policy says: who wants nothing made up for after an outage still wants the
// firing that a busy machine delayed.
//
// It keeps no state of its own: all it needs comes with the instances.
package timer
