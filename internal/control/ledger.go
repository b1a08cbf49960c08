package control

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// ledgerKeep is how long a result is kept for a repetition. A vault that is
// restored after longer than this starts its jobs anew.
const ledgerKeep = 90 * 24 * time.Hour

// ledgerHeader is the first line: magic and version.
const ledgerHeader = "rebound-ledger 1\n"

// Ledger is the gateway's durable memory of commands: the newest lease it has
// seen and the result of each (job, task). It is a file of lines, each with a
// CRC32C and synced before the call that wrote it returns; a torn last line is
// cut. Safe for use by several goroutines; one process owns the file.
type Ledger struct {
	mu      sync.Mutex
	file    *os.File
	lease   uint64
	results map[ledgerKey]ledgerRow
	broken  error
}

type ledgerKey struct {
	Job  dr.JobID
	Task string
}

// ledgerRow is one line; a row without Job is a lease.
type ledgerRow struct {
	Lease   uint64           `json:"lease,omitempty"`
	Job     dr.JobID         `json:"job,omitempty"`
	Task    string           `json:"task,omitempty"`
	Command string           `json:"command,omitempty"`
	At      time.Time        `json:"at"`
	Result  json.RawMessage  `json:"result,omitempty"`
	Problem *problem.Problem `json:"problem,omitempty"`
}

// OpenLedger opens or makes the ledger at path. Rows older than 90 days by now
// are dropped.
func OpenLedger(path string, now time.Time) (*Ledger, error) {
	l := &Ledger{results: map[ledgerKey]ledgerRow{}}
	if err := l.load(path, now); err != nil {
		return nil, fmt.Errorf("open command ledger %s: %w", path, err)
	}
	if err := l.rewrite(path); err != nil {
		return nil, fmt.Errorf("compact command ledger %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open command ledger: %w", err)
	}
	l.file = f
	return l, nil
}

// Close ends the use of the ledger.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = fs.ErrClosed
	}
	return l.file.Close()
}

func (l *Ledger) load(path string, now time.Time) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	head, err := r.ReadString('\n')
	if err != nil || head != ledgerHeader {
		return problem.New(problem.ProtocolError, "%s is no command ledger of version 1", path)
	}
	for n := 2; ; n++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return nil // whatever follows the last newline is a torn write
		}
		if err != nil {
			return err
		}
		row, err := parseLedgerLine(line)
		if err != nil {
			if _, more := r.Peek(1); more == io.EOF {
				return nil // a torn tail can hold a newline of its own
			}
			return fmt.Errorf("line %d: %w", n, err)
		}
		l.apply(row, now)
	}
}

func (l *Ledger) apply(row ledgerRow, now time.Time) {
	if row.Job == "" {
		l.lease = max(l.lease, row.Lease)
		return
	}
	if now.Sub(row.At) < ledgerKeep {
		l.results[ledgerKey{row.Job, row.Task}] = row
	}
}

// rewrite replaces the file by one that holds only what is live.
func (l *Ledger) rewrite(path string) error {
	var buf bytes.Buffer
	buf.WriteString(ledgerHeader)
	if err := appendLedgerLine(&buf, ledgerRow{Lease: l.lease}); err != nil {
		return err
	}
	for _, row := range l.results {
		if err := appendLedgerLine(&buf, row); err != nil {
			return err
		}
	}
	if err := renameio.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func appendLedgerLine(buf *bytes.Buffer, row ledgerRow) error {
	b, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode ledger row: %w", err)
	}
	fmt.Fprintf(buf, "%08x %s\n", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)), b)
	return nil
}

func parseLedgerLine(line []byte) (ledgerRow, error) {
	if len(line) < 10 || line[8] != ' ' {
		return ledgerRow{}, errors.New("damaged ledger line")
	}
	sum, err := hex.DecodeString(string(line[:8]))
	body := line[9 : len(line)-1]
	want := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	if err != nil || uint32(sum[0])<<24|uint32(sum[1])<<16|uint32(sum[2])<<8|uint32(sum[3]) != want {
		return ledgerRow{}, errors.New("damaged ledger line: checksum")
	}
	var row ledgerRow
	if err := json.Unmarshal(body, &row); err != nil {
		return ledgerRow{}, fmt.Errorf("damaged ledger line: %w", err)
	}
	return row, nil
}

// Lease is the newest that was seen.
func (l *Ledger) Lease() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease
}

// admit refuses a lease older than the newest seen and remembers a newer one.
func (l *Ledger) admit(lease uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if lease < l.lease {
		return problem.New(problem.StaleLease, "the command carries lease %d, the newest seen is %d", lease, l.lease)
	}
	if lease == l.lease {
		return nil
	}
	if err := l.append(ledgerRow{Lease: lease}); err != nil {
		return err
	}
	l.lease = lease
	return nil
}

// find returns the kept result of a (job, task). A task that is repeated as
// another command is a defect and refused. Its arguments may differ (a vault
// that died in the middle reads a machine's definition anew); the first ones
// count.
func (l *Ledger) find(o Origin, command string) (ledgerRow, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row, ok := l.results[ledgerKey{o.Job, o.Task}]
	if sabotageForgetLedger {
		row, ok = ledgerRow{}, false
	}
	if ok && row.Command != command {
		return row, true, problem.New(problem.ProtocolError, "task %s of job %s was %s and comes back as %s", o.Task, o.Job, row.Command, command)
	}
	return row, ok, nil
}

// record keeps a result; it is durable on return.
func (l *Ledger) record(row ledgerRow) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if err := l.append(row); err != nil {
		return err
	}
	l.results[ledgerKey{row.Job, row.Task}] = row
	return nil
}

// append writes and syncs one line. After a failed write or sync the state of
// the file is unknown, so the ledger refuses everything from then on; the
// gateway is to be restarted.
func (l *Ledger) append(row ledgerRow) error {
	var buf bytes.Buffer
	if err := appendLedgerLine(&buf, row); err != nil {
		return err
	}
	_, err := l.file.Write(buf.Bytes())
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.broken = fmt.Errorf("write command ledger: %w", err)
		return l.broken
	}
	return nil
}
