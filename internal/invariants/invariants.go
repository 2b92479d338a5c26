// Package invariants says whether checks that are too dear for production are
// compiled in: they are with the race detector and with the tag "invariants".
package invariants
