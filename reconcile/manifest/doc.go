// Package manifest turns the bytes of a pack's files into a checked model, and nothing else: it
// reads no file, clock or environment. Every finding names its file, line and column, all findings
// of a pack are told at once, and the same bytes always tell the same.
//
// It works in two passes. Parse reads one pack by itself: YAML to values (yaml.go, scalar.go), values
// to the model (decode_*.go), with aliases resolved and defaults left out, so that two files that
// mean the same are one model. Check then judges packs together, with what is in force and what the
// machine says. What either refuses goes to Bundle.Broken with its reason, one component at a time:
// its neighbours, and its own version in force, are not touched.
//
// Which keys there are is said once, in keys.go, with what may stand there and what it means. The
// decoders ask for a key by its name and get its aliases, words and bounds from that table, the JSON
// Schemas for editors are made of it, and the guide for pack authors shows all of it. A new key is a line
// there, a field of the model, and a line in the decoder; tests want a case, the schemas
// (UPDATE_SCHEMA=1) and the guide (UPDATE_GUIDE=1). A key that is read before anything acts on it also
// stands in idle.go until then.
package manifest
