// Package dr is the vocabulary of Rebound: identifiers, positions in a
// group's stream of writes, recovery points and machine definitions.
//
// Every other package may import it; it imports the standard library only and
// does no I/O. Types here are values: parse, print, compare, encode.
package dr
