package nbd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"rebound/internal/block"
)

// cookie of the first request of a client, and of the second.
const (
	firstCookie  = 1 << slotShift
	secondCookie = 1<<slotShift | 1
)

// scripted returns a client of a 1 MiB export whose server answers the first
// request with reply and then reads on.
func scripted(t *testing.T, flags uint16, reply []byte) *Client {
	t.Helper()
	here, there := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer there.Close()
		exp := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), 1<<20), flags)
		meta := appendOptReply(nil, optSetMetaContext, repMetaContext, append(be.AppendUint32(nil, 5), ContextAllocation...))
		in := newInput(there)
		for _, step := range []struct {
			read  int
			write []byte
		}{
			{0, be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption), 3)},
			{4 + optSize, appendOptReply(nil, optStructuredReply, repAck, nil)},
			{optSize + len(appendMetaOpt(nil, "", []string{ContextAllocation})), append(meta, appendOptReply(nil, optSetMetaContext, repAck, nil)...)},
			{optSize + len(appendExportOpt(nil, "", 1, 2, 3)), append(appendOptReply(nil, optGo, repInfo, exp), appendOptReply(nil, optGo, repAck, nil)...)},
			{requestSize, reply},
		} {
			if in.discard(int64(step.read)) != nil {
				return
			}
			if _, err := there.Write(step.write); err != nil {
				return
			}
		}
		io.Copy(io.Discard, there) //nolint:errcheck // until the client leaves
	}()
	c, err := NewClient(t.Context(), here, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-served })
	return c
}

func dataChunk(done bool, off uint64, data ...byte) []byte {
	b := appendChunk(nil, chunkHeader{done, chunkOffsetData, firstCookie, uint32(8 + len(data))})
	return append(be.AppendUint64(b, off), data...)
}

func holeChunk(done bool, off uint64, n uint32) []byte {
	b := appendChunk(nil, chunkHeader{done, chunkOffsetHole, firstCookie, 12})
	return be.AppendUint32(be.AppendUint64(b, off), n)
}

func TestClientReassemblesReads(t *testing.T) {
	none := appendChunk(nil, chunkHeader{true, chunkNone, firstCookie, 0})
	for name, c := range map[string]struct {
		reply []byte
		want  []byte
	}{
		"one chunk":            {dataChunk(true, 100, 1, 2, 3, 4), []byte{1, 2, 3, 4}},
		"out of order":         {joined(dataChunk(false, 102, 3, 4), dataChunk(true, 100, 1, 2)), []byte{1, 2, 3, 4}},
		"hole and none":        {joined(dataChunk(false, 103, 4), holeChunk(false, 100, 3), none), []byte{0, 0, 0, 4}},
		"single bytes":         {joined(dataChunk(false, 103, 4), dataChunk(false, 101, 2), dataChunk(false, 100, 1), dataChunk(true, 102, 3)), []byte{1, 2, 3, 4}},
		"unknown flag ignored": {withFlags(dataChunk(true, 100, 1, 2, 3, 4), 0x8001), []byte{1, 2, 3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			p := bytes.Repeat([]byte{0xEE}, 4)
			if err := scripted(t, 1, c.reply).ReadAt(t.Context(), p, 100); err != nil || !bytes.Equal(p, c.want) {
				t.Errorf("read %v, %v; want %v", p, err, c.want)
			}
		})
	}
}

func withFlags(chunk []byte, flags uint16) []byte {
	be.PutUint16(chunk[4:], flags)
	return chunk
}

// TestClientRefusesBrokenReplies: each of these ends the connection with
// ErrProtocol, and the read with an error.
func TestClientRefusesBrokenReplies(t *testing.T) {
	for name, reply := range map[string][]byte{
		"wrong magic":           make([]byte, 20),
		"simple reply to READ":  append(appendSimple(nil, 0, firstCookie), 1, 2, 3, 4),
		"unknown cookie":        appendError(nil, secondCookie, EIO, ""),
		"cookie of no slot":     appendError(nil, firstCookie|slotMask, EIO, ""),
		"too little data":       dataChunk(true, 100, 1, 2, 3),
		"no data":               appendChunk(nil, chunkHeader{true, chunkNone, firstCookie, 0}),
		"data before the range": dataChunk(true, 99, 1, 2, 3, 4),
		"data behind the range": dataChunk(true, 101, 1, 2, 3, 4),
		"data at 2^64":          dataChunk(true, 1<<64-2, 1, 2, 3, 4),
		"overlapping data":      joined(dataChunk(false, 100, 1, 2), dataChunk(true, 101, 2, 3, 4)),
		"hole over data":        joined(dataChunk(false, 100, 1, 2, 3, 4), holeChunk(true, 100, 4)),
		"empty hole":            holeChunk(false, 100, 0),
		"huge hole":             holeChunk(true, 100, 1<<32-1),
		"empty data":            dataChunk(false, 100),
		"status for a read":     appendBlockStatus(nil, firstCookie, 5, []block.Extent{{Length: 4}}),
		"unknown chunk":         appendChunk(nil, chunkHeader{true, 77, firstCookie, 0}),
		"NONE with payload":     appendChunk(nil, chunkHeader{true, chunkNone, firstCookie, 4}),
		"NONE not last":         appendChunk(nil, chunkHeader{false, chunkNone, firstCookie, 0}),
		"error of nothing":      appendError(nil, firstCookie, 0, ""),
		"error too short":       append(appendChunk(nil, chunkHeader{true, chunkError, firstCookie, 2}), 0, 5),
		"message too long":      append(appendChunk(nil, chunkHeader{true, chunkError, firstCookie, 6}), 0, 0, 0, 5, 0, 9),
		"error chunk too long":  appendChunk(nil, chunkHeader{true, chunkError, firstCookie, 1 << 20}),
		"error outside": be.AppendUint64(append(appendChunk(nil, chunkHeader{true, chunkErrorOffset, firstCookie, 14}),
			0, 0, 0, 5, 0, 0), 4096),
	} {
		t.Run(name, func(t *testing.T) {
			c := scripted(t, 1, reply)
			if err := c.ReadAt(t.Context(), make([]byte, 4), 100); err == nil {
				t.Error("read succeeded")
			}
			<-c.Lost()
			if !errors.Is(c.Err(), ErrProtocol) {
				t.Errorf("connection ended with %v", c.Err())
			}
		})
	}
}

func TestClientTakesErrorChunks(t *testing.T) {
	offset := be.AppendUint64(append(appendChunk(nil, chunkHeader{false, chunkErrorOffset, firstCookie, 15}), 0, 0, 0, 28, 0, 1, '!'), 101)
	for name, c := range map[string]struct {
		reply []byte
		want  Errno
	}{
		"plain":        {appendError(nil, firstCookie, EINVAL, "why"), EINVAL},
		"after data":   {joined(dataChunk(false, 100, 1, 2, 3, 4), appendError(nil, firstCookie, EIO, "")), EIO},
		"with offset":  {joined(offset, appendChunk(nil, chunkHeader{true, chunkNone, firstCookie, 0})), ENOSPC},
		"unknown type": {append(appendChunk(nil, chunkHeader{true, chunkErrorBit + 99, firstCookie, 8}), 0, 0, 0, 95, 0, 0, 7, 7), ENOTSUP},
	} {
		t.Run(name, func(t *testing.T) {
			cl := scripted(t, 1, c.reply)
			if err := cl.ReadAt(t.Context(), make([]byte, 4), 100); !errors.Is(err, c.want) {
				t.Errorf("read = %v, want %v", err, c.want)
			}
			if cl.Err() != nil {
				t.Errorf("connection ended: %v", cl.Err())
			}
		})
	}
}

func TestClientStatus(t *testing.T) {
	runs := []block.Extent{{Length: 4096}, {Length: 4096}, {Length: 1 << 20, Hole: true, Zero: true}}
	c := scripted(t, 1, appendBlockStatus(nil, firstCookie, 5, runs))
	got, err := c.BlockStatus(t.Context(), ContextAllocation, 0, 12288)
	if err != nil || len(got) != 2 || got[0] != (Status{8192, 0}) || got[1] != (Status{4096, 3}) {
		t.Errorf("status %+v, %v", got, err)
	}
	for name, reply := range map[string][]byte{
		"unknown context": appendBlockStatus(nil, firstCookie, 6, runs),
		"empty run":       appendBlockStatus(nil, firstCookie, 5, []block.Extent{{}}),
		"no context":      appendChunk(nil, chunkHeader{true, chunkNone, firstCookie, 0}),
		"odd length":      append(appendChunk(nil, chunkHeader{true, chunkBlockStatus, firstCookie, 5}), 0, 0, 0, 5, 1),
		"simple success":  appendSimple(nil, 0, firstCookie),
		"context twice": joined(withFlags(appendBlockStatus(nil, firstCookie, 5, runs), 0),
			appendBlockStatus(nil, firstCookie, 5, runs)),
	} {
		c := scripted(t, 1, reply)
		if _, err := c.BlockStatus(t.Context(), ContextAllocation, 0, 4096); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClientObeysTransmissionFlags: what the server does not offer is not sent.
func TestClientObeysTransmissionFlags(t *testing.T) {
	c := scripted(t, 1, appendSimple(nil, 0, firstCookie))
	ctx := t.Context()
	if err := errors.Join(c.Flush(ctx), c.Trim(ctx, 0, 4096)); err != nil {
		t.Errorf("flush and trim without the server's help: %v", err)
	}
	if err := c.WriteZeroesMode(ctx, 0, 4096, block.ZeroFastOnly); !errors.Is(err, block.ErrNotFast) {
		t.Errorf("fast zero without the server's help: %v", err)
	}
	// Zeroes are then written: the script answers this one request.
	if err := c.WriteZeroes(ctx, 0, 4096); err != nil {
		t.Errorf("zeroes: %v", err)
	}
}

func TestClientLeavesOnShutdown(t *testing.T) {
	c := scripted(t, 1, appendError(nil, firstCookie, ESHUTDOWN, "going down"))
	if err := c.ReadAt(t.Context(), make([]byte, 4), 0); !errors.Is(err, ESHUTDOWN) {
		t.Errorf("read = %v", err)
	}
	<-c.Lost()
	if err := c.ReadAt(t.Context(), make([]byte, 4), 0); err == nil {
		t.Error("read after ESHUTDOWN succeeded")
	}
}
