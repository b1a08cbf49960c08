package nbd

import "fmt"

// Limits of the protocol document, and ours where it leaves them open.
const (
	// MaxString is the longest export name, description, query or context
	// name in bytes (the document's limit for strings).
	MaxString = 4096
	// MaxPayload is the largest READ or WRITE payload in bytes when no other
	// maximum was advertised (the document's 32 MiB).
	MaxPayload = 32 << 20
	// maxOption is the longest option payload that is looked at; longer ones
	// are drained and refused with NBD_REP_ERR_TOO_BIG.
	maxOption = 64 << 10
	// maxOptionDrain is the longest option payload that is drained rather than
	// answered with a closed connection.
	maxOptionDrain = 1 << 20
	// maxOptions is how many options one client may haggle about.
	maxOptions = 256
	// maxPayloadDrain is the longest payload of a refused WRITE that is drained
	// rather than answered with a closed connection.
	maxPayloadDrain = 64 << 20
	// maxContexts is how many metadata contexts a connection can have.
	maxContexts = 64
	// maxStatusExtents is the most descriptors in one BLOCK_STATUS reply.
	maxStatusExtents = 1 << 16
)

// Magic numbers of the handshake and of the transmission phase.
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Handshake flags, and the client's answer to them.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// TransmissionFlags say what an export can do.
type TransmissionFlags uint16

// The transmission flags that this package knows.
const (
	FlagHasFlags        TransmissionFlags = 1 << 0
	FlagReadOnly        TransmissionFlags = 1 << 1
	FlagSendFlush       TransmissionFlags = 1 << 2
	FlagSendFUA         TransmissionFlags = 1 << 3
	FlagRotational      TransmissionFlags = 1 << 4
	FlagSendTrim        TransmissionFlags = 1 << 5
	FlagSendWriteZeroes TransmissionFlags = 1 << 6
	FlagSendDF          TransmissionFlags = 1 << 7
	FlagCanMultiConn    TransmissionFlags = 1 << 8
	FlagSendFastZero    TransmissionFlags = 1 << 11
)

// option is the type of an option of the handshake.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optStartTLS        option = 5
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMetaContext option = 9
	optSetMetaContext  option = 10
)

// optReply is the type of a reply to an option; errors have bit 31 set.
type optReply uint32

const (
	repAck         optReply = 1
	repServer      optReply = 2
	repInfo        optReply = 3
	repMetaContext optReply = 4

	repErrBit          optReply = 1 << 31
	repErrUnsup        optReply = repErrBit + 1
	repErrPolicy       optReply = repErrBit + 2
	repErrInvalid      optReply = repErrBit + 3
	repErrPlatform     optReply = repErrBit + 4
	repErrTLSReqd      optReply = repErrBit + 5
	repErrUnknown      optReply = repErrBit + 6
	repErrShutdown     optReply = repErrBit + 7
	repErrBlockSizeReq optReply = repErrBit + 8
	repErrTooBig       optReply = repErrBit + 9
)

// Information types of INFO and GO.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Op is the command of a request.
type Op uint16

// The commands that this package knows.
const (
	OpRead        Op = 0
	OpWrite       Op = 1
	opDisc        Op = 2
	OpFlush       Op = 3
	OpTrim        Op = 4
	OpWriteZeroes Op = 6
	OpBlockStatus Op = 7
)

// String names the command as the document does.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "READ"
	case OpWrite:
		return "WRITE"
	case opDisc:
		return "DISC"
	case OpFlush:
		return "FLUSH"
	case OpTrim:
		return "TRIM"
	case OpWriteZeroes:
		return "WRITE_ZEROES"
	case OpBlockStatus:
		return "BLOCK_STATUS"
	}
	return fmt.Sprintf("command %d", uint16(o))
}

// CmdFlags are the flags of one request.
type CmdFlags uint16

// The command flags.
const (
	CmdFUA      CmdFlags = 1 << 0 // durable before the reply
	CmdNoHole   CmdFlags = 1 << 1 // WRITE_ZEROES: keep the range allocated
	CmdDF       CmdFlags = 1 << 2 // READ: one content chunk
	CmdReqOne   CmdFlags = 1 << 3 // BLOCK_STATUS: one extent
	CmdFastZero CmdFlags = 1 << 4 // WRITE_ZEROES: fail rather than be slow
)

// Chunk types of structured replies; errors have bit 15 set.
const (
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15
	chunkError       = chunkErrorBit + 1
	chunkErrorOffset = chunkErrorBit + 2

	chunkFlagDone = 1
)

// ContextAllocation is the metadata context that every server here offers.
const ContextAllocation = "base:allocation"

// DirtyBitmapContext returns the name of QEMU's metadata context of a dirty
// bitmap; bit 0 of its flags (StatusDirty) marks dirty extents.
func DirtyBitmapContext(bitmap string) string { return "qemu:dirty-bitmap:" + bitmap }

// Flags of extents: base:allocation, and QEMU's dirty bitmaps.
const (
	StatusHole  uint32 = 1 << 0
	StatusZero  uint32 = 1 << 1
	StatusDirty uint32 = 1 << 0
)

// BlockSizes are the constraints that a server advertises, in bytes. Min is a
// power of two up to 64 KiB, Preferred a power of two >= Min, Max a multiple of
// Min that bounds the payload of READ and WRITE.
type BlockSizes struct {
	Min       uint32 `json:"min"`
	Preferred uint32 `json:"preferred"`
	Max       uint32 `json:"max"`
}

// Validate reports whether the three fit together as the document demands.
func (b BlockSizes) Validate() error {
	pow2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case !pow2(b.Min) || b.Min > 64<<10:
		return fmt.Errorf("minimum block size %d is no power of two up to 65536", b.Min)
	case !pow2(b.Preferred) || b.Preferred < max(b.Min, 512) || b.Preferred > MaxPayload:
		return fmt.Errorf("preferred block size %d is no power of two from max(512, minimum) to %d", b.Preferred, MaxPayload)
	case b.Max < b.Preferred || b.Max%b.Min != 0:
		return fmt.Errorf("maximum block size %d is below the preferred one or no multiple of the minimum", b.Max)
	}
	return nil
}
