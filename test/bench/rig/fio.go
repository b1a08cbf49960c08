package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Load is what fio does to a disk.
type Load struct {
	Block string // such as "64k"
	Depth int
	// Read reads at random; else it writes at random.
	Read    bool
	Seconds int
	// Half makes the data half compressible; Fresh makes it new for each
	// write and not compressible at all. Else fio scrambles one buffer.
	Half, Fresh bool
	// IOPS and Bytes bound the rate, in operations and in bytes a second;
	// 0 does not. With several disks both are for each.
	IOPS, Bytes int
}

// Result is what fio measured, over all disks.
type Result struct {
	IOPS    float64
	Bytes   float64       // a second
	Total   float64       // bytes in all
	Runtime time.Duration // of the load alone
	// P50 and P99 are percentiles of the completion latency.
	P50, P99 time.Duration
}

// args returns fio's command line for some disks, given as NBD addresses.
func (l Load) args(uris []string) []string {
	a := []string{
		"fio", "--output-format=json", "--group_reporting", "--ioengine=nbd", "--norandommap", "--randrepeat=0",
		"--time_based", "--runtime=" + strconv.Itoa(l.Seconds), "--bs=" + l.Block, "--iodepth=" + strconv.Itoa(l.Depth),
	}
	switch {
	case l.Read:
		a = append(a, "--rw=randread")
	case l.Half:
		a = append(a, "--rw=randwrite", "--refill_buffers", "--buffer_compress_percentage=50", "--buffer_compress_chunk=4096")
	case l.Fresh:
		a = append(a, "--rw=randwrite", "--refill_buffers")
	default:
		a = append(a, "--rw=randwrite")
	}
	if l.IOPS > 0 {
		a = append(a, "--rate_iops="+strconv.Itoa(l.IOPS), "--rate_process=poisson")
	}
	if l.Bytes > 0 {
		a = append(a, "--rate="+strconv.Itoa(l.Bytes))
	}
	for i, u := range uris {
		a = append(a, "--name=disk"+strconv.Itoa(i), "--uri="+u)
	}
	return a
}

// Fio loads disks, given as NBD addresses; name is that of the raw output.
func (r *Rig) Fio(ctx context.Context, name string, l Load, uris ...string) (Result, error) {
	out, _, err := r.tool(ctx, name+".fio.json", l.args(uris)...)
	if err != nil {
		return Result{}, err
	}
	return parseFio(out, l.Read)
}

// direction is fio's report of reads or of writes.
type direction struct {
	IOPS    float64 `json:"iops"`
	Bytes   float64 `json:"bw_bytes"`
	Total   float64 `json:"io_bytes"`
	Runtime float64 `json:"runtime"` // ms
	Latency struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

func parseFio(out []byte, read bool) (Result, error) {
	// Warnings may stand before the JSON.
	if i := bytes.IndexByte(out, '{'); i > 0 {
		out = out[i:]
	}
	var doc struct {
		Jobs []struct {
			Error int       `json:"error"`
			Read  direction `json:"read"`
			Write direction `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return Result{}, fmt.Errorf("parse fio's report: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return Result{}, fmt.Errorf("parse fio's report: %d groups of jobs, want 1", len(doc.Jobs))
	}
	j := doc.Jobs[0]
	if j.Error != 0 {
		return Result{}, fmt.Errorf("fio saw error %d", j.Error)
	}
	d := j.Write
	if read {
		d = j.Read
	}
	if d.Total == 0 {
		return Result{}, errors.New("fio did nothing")
	}
	return Result{
		IOPS: d.IOPS, Bytes: d.Bytes, Total: d.Total, Runtime: time.Duration(d.Runtime * float64(time.Millisecond)),
		P50: time.Duration(d.Latency.Percentile["50.000000"]), P99: time.Duration(d.Latency.Percentile["99.000000"]),
	}, nil
}
