// Package nbd is the Network Block Device protocol, both ends, after the
// protocol document (fixed newstyle only): https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// Server serves named exports, each backed by a block.Device (requests run
// concurrently, bounded in number and bytes) or by a Handler, which takes
// requests as they arrive and completes them later from any goroutine. Client
// is a block.Device and block.Mapper over one connection, with many requests in
// flight.
//
// The package promises that no peer, however broken, can make it panic, hold
// memory beyond the stated limits, or mistake one reply for another. It knows
// nothing of disaster recovery; anyone above it may call it.
package nbd
