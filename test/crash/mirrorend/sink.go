package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Constants of the NBD protocol document that the sink needs.
const (
	nbdMagic       = 0x4e42444d41474943 // "NBDMAGIC"
	optMagic       = 0x49484156454f5054 // "IHAVEOPT"
	optReplyMagic  = 0x3e889045565a9
	requestMagic   = 0x25609513
	replyMagic     = 0x67446698
	optAbort       = 2
	optInfo        = 6
	optGo          = 7
	repAck         = 1
	repInfo        = 3
	repErrUnsup    = 1<<31 | 1
	infoExport     = 0
	infoBlockSize  = 3
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	transmitFlags  = 1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 // flags, flush, FUA, trim, write zeroes
	eio            = 5
	maxRequestSize = 1 << 20
)

// mood is how the sink treats requests.
type mood int32

const (
	kind   mood = iota // answers everything
	eioOne             // answers one write with EIO, then kind
	eioAll             // answers everything with EIO
	mute               // reads and never answers
)

// sink is an NBD server that forgets what it is sent and can be told to end
// badly. It takes one connection in its life, as a capture process must: QEMU
// connects again at its next request once a connection broke, also with
// reconnect-delay 0, and a reconnected mirror would go on after the break.
type sink struct {
	size  int64
	path  string
	delay atomic.Int64 // of answers, in nanoseconds
	mood  atomic.Int32
	// inFlight counts requests read and not answered.
	inFlight, writes atomic.Int64

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newSink(path string, size int64, delay time.Duration) (*sink, error) {
	s := &sink{size: size, path: path, conns: map[net.Conn]struct{}{}}
	s.delay.Store(int64(delay))
	return s, s.listen()
}

// accept takes one connection and then stops listening, so that another attempt
// is refused by the kernel at once.
func (s *sink) accept(l net.Listener) {
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		return
	}
	_ = l.Close()
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.wg.Go(func() { s.serve(c) })
}

func (s *sink) listen() error {
	_ = os.Remove(s.path)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return fmt.Errorf("listen for mirror: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after a crash
	s.mu.Lock()
	s.l = l
	s.mu.Unlock()
	s.wg.Go(func() { s.accept(l) })
	return nil
}

// cut closes the connections as the death of a server does.
func (s *sink) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// takeOver turns the sink into one that lets QEMU in again and answers
// everything at once.
func (s *sink) takeOver() error {
	s.delay.Store(0)
	s.mood.Store(int32(kind))
	return s.listen()
}

func (s *sink) close() {
	s.mu.Lock()
	_ = s.l.Close()
	s.mu.Unlock()
	s.cut()
	s.wg.Wait()
}

func (s *sink) serve(c net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		_ = c.Close()
	}()
	r := bufio.NewReaderSize(c, 1<<20)
	if s.negotiate(c, r) != nil {
		return
	}
	s.transmit(c, r)
}

func (s *sink) negotiate(c net.Conn, r io.Reader) error {
	hello := binary.BigEndian.AppendUint64(nil, nbdMagic)
	hello = binary.BigEndian.AppendUint64(hello, optMagic)
	hello = binary.BigEndian.AppendUint16(hello, 3) // fixed newstyle, no zeroes
	if _, err := c.Write(hello); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(r, flags[:]); err != nil {
		return err
	}
	for {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		opt := binary.BigEndian.Uint32(head[8:])
		if _, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(head[12:]))); err != nil {
			return err
		}
		switch opt {
		case optAbort:
			_ = optReply(c, opt, repAck, nil)
			return errors.New("client aborted")
		case optInfo, optGo:
			if err := s.describe(c, opt); err != nil {
				return err
			}
			if opt == optGo {
				return nil
			}
		default:
			if err := optReply(c, opt, repErrUnsup, nil); err != nil {
				return err
			}
		}
	}
}

func (s *sink) describe(c net.Conn, opt uint32) error {
	info := binary.BigEndian.AppendUint16(nil, infoExport)
	info = binary.BigEndian.AppendUint64(info, uint64(s.size))
	info = binary.BigEndian.AppendUint16(info, transmitFlags)
	blocks := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	for _, n := range []uint32{1, 4096, maxRequestSize} {
		blocks = binary.BigEndian.AppendUint32(blocks, n)
	}
	return errors.Join(optReply(c, opt, repInfo, info), optReply(c, opt, repInfo, blocks), optReply(c, opt, repAck, nil))
}

func optReply(c net.Conn, opt, reply uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, optReplyMagic)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, reply)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := c.Write(append(b, data...))
	return err
}

func (s *sink) transmit(c net.Conn, r io.Reader) {
	var writeMu sync.Mutex
	var replies sync.WaitGroup
	defer replies.Wait()
	for {
		var head [28]byte
		if _, err := io.ReadFull(r, head[:]); err != nil || binary.BigEndian.Uint32(head[:]) != requestMagic {
			return
		}
		command := binary.BigEndian.Uint16(head[6:])
		length := int64(binary.BigEndian.Uint32(head[24:]))
		if command == cmdDisc {
			return
		}
		if command == cmdWrite {
			if _, err := io.CopyN(io.Discard, r, length); err != nil {
				return
			}
			s.writes.Add(1)
		}
		s.inFlight.Add(1)
		answer := func() {
			s.answer(c, &writeMu, head[8:16], command, length)
			s.inFlight.Add(-1)
		}
		delay := time.Duration(s.delay.Load())
		if delay == 0 {
			answer()
			continue
		}
		replies.Go(func() {
			// The time that a loaded server takes, spread.
			time.Sleep(rand.N(2 * delay))
			answer()
		})
	}
}

func (s *sink) answer(c net.Conn, mu *sync.Mutex, handle []byte, command uint16, length int64) {
	code := uint32(0)
	switch mood(s.mood.Load()) {
	case mute:
		return
	case eioAll:
		code = eio
	case eioOne:
		if s.mood.CompareAndSwap(int32(eioOne), int32(kind)) {
			code = eio
		}
	}
	b := binary.BigEndian.AppendUint32(nil, replyMagic)
	b = binary.BigEndian.AppendUint32(b, code)
	b = append(b, handle...)
	if command == cmdRead && code == 0 {
		b = append(b, make([]byte, length)...)
	}
	mu.Lock()
	defer mu.Unlock()
	_, _ = c.Write(b)
}
