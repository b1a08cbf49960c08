package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxMessage is the size in bytes of the largest message taken from a peer.
// The largest that QEMU sends in practice, the answer of query-qmp-schema, is
// about 300 KiB.
const MaxMessage = 16 << 20

// ErrMessageTooLong is returned when a peer sends more than MaxMessage bytes
// without ending its message.
var ErrMessageTooLong = errors.New("qmp: message too long")

// Error is an error that QEMU answered with. Commands that fail with one were
// executed and refused; every other error is one of the connection.
type Error struct {
	// Class is "GenericError" for nearly everything; others are
	// "CommandNotFound", "DeviceNotFound", "DeviceNotActive",
	// "KVMMissingCap".
	Class string `json:"class"`
	// Desc is a text for people, in QEMU's words.
	Desc string `json:"desc"`
	// Command is the one that was refused; it is not on the wire.
	Command string `json:"-"`
}

// Error prints command, class and text.
func (e *Error) Error() string {
	return fmt.Sprintf("qmp %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// The classes of errors that programs look at.
const (
	GenericError    = "GenericError"
	CommandNotFound = "CommandNotFound"
	DeviceNotFound  = "DeviceNotFound"
	DeviceNotActive = "DeviceNotActive"
)

// HasClass reports whether QEMU refused a command with an error of that class.
func HasClass(err error, class string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Class == class
}

// Refused reports whether QEMU itself answered with an error, which proves
// that it is alive and that the command had no effect.
func Refused(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// Event is something that QEMU reports by itself.
type Event struct {
	Name string
	// Data is the event's data object; nil when it has none.
	Data json.RawMessage
	// Time is QEMU's wall clock, to the microsecond.
	Time time.Time
}

// Decode puts the event's data into v.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("decode event %s: %w", e.Name, err)
	}
	return nil
}

// Greeting is what a server says first.
type Greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// request is a command on the wire.
type request struct {
	Execute   string `json:"execute,omitempty"`
	ExecOOB   string `json:"exec-oob,omitempty"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is anything that a server sends.
type message struct {
	Greeting  *Greeting       `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	ID        *uint64         `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp *struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

func (m *message) event() Event {
	e := Event{Name: m.Event, Data: m.Data}
	if m.Timestamp != nil && m.Timestamp.Seconds >= 0 {
		e.Time = time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000).UTC()
	}
	return e
}

// decoder cuts a stream into messages. It takes QEMU's one message a line and
// also messages over several lines (-mon pretty=on).
type decoder struct {
	r   *bufio.Reader
	buf bytes.Buffer
	// wanted, when not nil, says whether anybody wants events of a name;
	// others are dropped unparsed. A failing mirror emits one event a guest
	// write, and QEMU's answers queue behind them.
	wanted func(name []byte) bool
}

func newDecoder(r io.Reader) *decoder { return &decoder{r: bufio.NewReaderSize(r, 256<<10)} }

// next returns the next message. io.EOF means a clean end between messages.
func (d *decoder) next() (*message, error) {
	d.buf.Reset()
	for {
		line, err := d.r.ReadSlice('\n')
		if d.buf.Len()+len(line) > MaxMessage {
			return nil, ErrMessageTooLong
		}
		d.buf.Write(line)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		text := bytes.TrimSpace(d.buf.Bytes())
		if err != nil {
			if errors.Is(err, io.EOF) && len(text) > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(text) == 0 {
			d.buf.Reset()
			continue
		}
		if d.wanted != nil {
			if name := eventName(text); name != nil && !d.wanted(name) {
				d.buf.Reset()
				continue
			}
		}
		if !complete(text) {
			continue
		}
		return parse(text)
	}
}

// eventName returns the name of an event as QEMU writes it on one line, without
// parsing: {"timestamp": {…}, "event": "NAME"…}. Nil means anything else.
func eventName(text []byte) []byte {
	if !bytes.HasPrefix(text, []byte(`{"timestamp": {"seconds": `)) || text[len(text)-1] != '}' {
		return nil
	}
	_, rest, ok := bytes.Cut(text, []byte(`}, "event": "`))
	if !ok {
		return nil
	}
	name, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return nil
	}
	return name
}

// complete reports whether text ends an object that it began: the braces
// outside strings are balanced. Text that is no object is complete too, so
// that parse refuses it at once.
func complete(text []byte) bool {
	if text[0] != '{' {
		return true
	}
	if text[len(text)-1] != '}' {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && c == '{':
			depth++
		case !inString && c == '}':
			depth--
		}
	}
	return depth <= 0
}

func parse(text []byte) (*message, error) {
	// json keeps slices of RawMessage apart from its input.
	m := &message{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("qmp: parse message %.80q: %w", text, err)
	}
	return m, nil
}
