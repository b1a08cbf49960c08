// Package repo holds the rules of the source tree as tests: which package may
// import which, that every package says what it is, and the size of files and
// functions. It has no code besides its tests.
package repo
