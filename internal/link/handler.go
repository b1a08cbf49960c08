package link

import (
	"context"

	"rebound/internal/dr"
)

// Handler is the standby's side of the group: the gateway, on top of the
// journal.
//
// Contract:
//   - Errors reach the peer: a *problem.Problem in the chain as itself, any
//     other error as InternalError.
//   - Admit is called first and decides whether this peer may speak for this
//     group at this generation (UnknownGroup, StaleGeneration, StaleEpoch,
//     WrongVault, PermissionDenied, InvalidRequest for a disk table that does
//     not fit). It changes nothing: the stream that is open now goes on when
//     the new one is not admitted.
//   - OpenStream is called when no other stream of the group is open; the
//     sink of the one before was closed. For Epoch 0 it makes and persists a
//     new epoch, the last one + 1; an epoch older than the newest is
//     StaleEpoch. It may be called again for the same epoch: what the stream
//     before had appended is then either durable and counted in
//     Welcome.Durable, or forgotten, and comes again.
//   - durable is called by the sink, from any goroutine, each time that more
//     is durable, with the seq of the last durable entry of the epoch. It does
//     not block and may be called after Close.
//   - When the generation is raised, the gateway persists it, so that Admit
//     refuses the old one, and then calls Server.Fence.
type Handler interface {
	Admit(ctx context.Context, peer Peer, hello *Hello) error
	OpenStream(ctx context.Context, peer Peer, hello *Hello, durable func(dr.Seq)) (Welcome, StreamSink, error)
	OpenCompare(ctx context.Context, peer Peer, hello *Hello) (Comparer, error)
}

// StreamSink takes the frames of one stream, one at a time.
//
// Contract:
//   - Append gets one whole frame that passed segment.ParseFrame, of the
//     stream's generation and epoch, whose first entry follows the last one of
//     the frame before (the first: Welcome.Durable + 1). The frame is valid
//     until Append returns. Once it has returned nil, the head view shows it.
//   - What was appended becomes durable by itself within a bounded time (group
//     commit) and is then reported through durable.
//   - An error of Append ends the stream. What was appended before stays.
//   - Close is called once, after the last Append returned, also when the
//     connection broke. It does not undo anything.
type StreamSink interface {
	Append(ctx context.Context, frame []byte) error
	Close() error
}

// Comparer answers what the standby has. Hashes is called from several
// goroutines at a time. resync.Standby is the implementation.
type Comparer interface {
	// Hashes appends the hashes of req's runs to dst: HashSize bytes for
	// each unit of each run, in order; the last unit of a run may be short.
	Hashes(ctx context.Context, req *CompareRequest, dst []byte) ([]byte, error)
	Close() error
}

// HashSize is the length of a hash on the wire: the first 16 bytes of BLAKE3.
// Hashes are compared pairwise, block i of one side with block i of the other,
// so 128 bits leave an accidental match at 2^-128 a pair; a collision made on
// purpose costs 2^64 work and harms only the disk of the one who made it.
const HashSize = 16

// CompareRequest asks for hashes of parts of one disk's head view.
type CompareRequest struct {
	Disk uint16
	// After is the entry of Epoch that the head view should show before it
	// is read. The standby waits for it a bounded time (ServerConfig.HeadWait)
	// and then answers all the same. 0 does not wait.
	Epoch dr.Epoch
	After dr.Seq
	Runs  []CompareRun
}

// CompareRun is a run of bytes, hashed in pieces of Unit bytes from its
// beginning.
type CompareRun struct {
	Off  int64
	Len  int64
	Unit uint32
}

// Units returns how many hashes the run has.
func (r CompareRun) Units() int {
	return int((r.Len + int64(r.Unit) - 1) / int64(r.Unit))
}

// Limits of a CompareRequest.
const (
	// MaxCompareRuns is the most runs in one request.
	MaxCompareRuns = 256
	// MaxCompareBytes is the most bytes that one request asks about.
	MaxCompareBytes = 1 << 20
	// MinCompareUnit is the smallest unit, in bytes.
	MinCompareUnit = 4096
)

// CompareAnswer is the answer to one request. Caught reports that the head
// view showed After when it was read.
type CompareAnswer struct {
	Caught bool
	Hashes []byte
}
