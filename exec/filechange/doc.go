// Package filechange is the engine of core.filechange_sensor: a sensor like any other, that prints an event
// for each file that appeared, changed or went.
//
// What it promises:
//
//   - A change is told when the file has been as it is for the settle time: one that is being written is told
//     once, when it is whole. What appeared and went within it is told by nobody.
//   - What it knows is kept in the data folder, so that what changed while it did not run is told when it
//     does again. What is there when an instance first comes to be is no change.
//   - An event is kept until the daemon has acknowledged it, and printed again after a restart until then,
//     with the id that it had.
//   - What cannot be read is not gone: a folder that cannot be listed, or the pattern's own folder when it is
//     missing, tells nothing until it is back.
//   - A bad instance costs nothing but itself.
//
// Folders are watched by the code that watches packs, and looked at by themselves from time to time, for
// not every file system tells of all changes. Links to folders are not followed.
package filechange
