// Package environment makes what packs need beside an interpreter: a virtual environment for a pack with a
// requirements.txt, node's modules for one with a package.json.
//
// An environment stands in a folder under the digest of all that decides what is in it: the requirements,
// the interpreter, and where packages come from. It is made once, in the background, by children like any
// others, and never changed afterwards, so that packs and revisions share it.
//
//	state      means
//	checking   it is being found out whether the interpreter has all that is needed
//	system     it has: there is nothing to make
//	making     it is being made; who needs it waits
//	ready      it is there
//	failed     it could not be made; what the pack had before stays in use, and it is tried again
//
// What it promises: nobody is given an environment that is not whole; a failure costs only those that
// have nothing else to go on; what no pack needs any more is removed after a while.
package environment
