package collector

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// ackLog keeps acknowledgements in memory and in a file. It has no lock; its
// owner's lock guards it.
type ackLog struct {
	acks []Ack
	file *os.File
	err  error // the first that writing met
}

func (l *ackLog) add(a Ack) {
	l.acks = append(l.acks, a)
	if l.file == nil || l.err != nil {
		return
	}
	b, err := json.Marshal(a)
	if err == nil {
		_, err = l.file.Write(append(b, '\n'))
	}
	l.err = err
}

func (l *ackLog) close() error {
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.err, l.file.Close())
	if err != nil {
		return fmt.Errorf("write acknowledgement log: %w", err)
	}
	return nil
}

// ReadLog reads an acknowledgement log (acks.jsonl), so that anyone can
// compute a report again from the evidence.
func ReadLog(r io.Reader) ([]Ack, error) {
	var acks []Ack
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var a Ack
		if err := json.Unmarshal(sc.Bytes(), &a); err != nil {
			return nil, fmt.Errorf("parse acknowledgement %d: %w", len(acks)+1, err)
		}
		acks = append(acks, a)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read acknowledgement log: %w", err)
	}
	return acks, nil
}
