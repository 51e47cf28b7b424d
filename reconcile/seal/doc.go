// Package seal keeps secret parameters unreadable at rest: what a schema calls secret is encrypted
// before it is queued, and opened when its child starts.
//
// What it promises:
//
//   - A sealed value is a text: sealed:KEY:DATA. KEY names the key that opens it, DATA is base64 of
//     the nonce and what AES-256-GCM made of the value as JSON. The action and the place of the value
//     are authenticated with it, so a sealed value opens nowhere else.
//   - The first key of the file seals, all of them open. A key is rotated by putting a new one first;
//     Renew then gives what older keys have sealed to the new one, and the old key can go.
//   - A signature is KEY:MAC, and tells who has the key, and nobody else, that two texts are equal.
//   - The file is read again whenever it has changed. Where there is none, and Options allow it, one is
//     made at the first value that needs it, readable by its owner alone.
//   - No error holds a value or a key.
//
// What it refuses: to seal without a key, to use a file that others may read, and to guess.
package seal
