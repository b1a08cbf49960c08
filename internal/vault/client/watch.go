package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// WatchOptions say what to watch; zero values watch everything from now on.
type WatchOptions struct {
	// After is the last change that is known; 0 begins now.
	After int64
	// Types of changes (rest.ChangeJob and the like); empty for all.
	Types []string
	Group dr.GroupID
	// Opened is called whenever the stream stands, also again after it had
	// broken; may be nil.
	Opened func() error
}

// maxChange is the longest message that is read.
const maxChange = 16 << 20

// Watch calls each for every change, in order, until ctx ends or each returns
// an error. A connection that breaks is made again, and goes on where it was;
// after a rest.ChangeReset something was missed and must be read anew.
// NotAuthenticated means that the token has ended.
func (c *Client) Watch(ctx context.Context, o WatchOptions, each func(rest.Change) error) error {
	pause := 200 * time.Millisecond
	for {
		err := c.watchOnce(ctx, &o, func(ch rest.Change) error {
			pause = 200 * time.Millisecond
			return each(ch)
		})
		if stop, ok := errors.AsType[stopped](err); ok {
			return stop.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !problem.HasCode(err, problem.VaultUnreachable) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// stopped is an error of the caller's own.
type stopped struct{ error }

func (c *Client) watchOnce(ctx context.Context, o *WatchOptions, each func(rest.Change) error) error {
	q := url.Values{}
	if len(o.Types) > 0 {
		q.Set("types", strings.Join(o.Types, ","))
	}
	if o.Group != "" {
		q.Set("group", string(o.Group))
	}
	req, err := c.request(ctx, http.MethodGet, "/events/stream", q, nil)
	if err != nil {
		return err
	}
	if o.After > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatInt(o.After, 10))
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		return problem.Wrap(err, problem.VaultUnreachable, "%s", c.base)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decode(resp, nil)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxChange)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var ch rest.Change
		if err := json.Unmarshal([]byte(data), &ch); err != nil {
			return problem.Wrap(err, problem.ProtocolError, "cannot read a change")
		}
		if err := o.take(ch, each); err != nil {
			return err
		}
	}
	return lines.Err() // a vault that ends, or a client that was too slow
}

func (o *WatchOptions) take(ch rest.Change, each func(rest.Change) error) error {
	if ch.Seq > 0 {
		defer func() { o.After = ch.Seq }()
	}
	switch ch.Type {
	case rest.ChangeReady:
		if o.Opened != nil {
			if err := o.Opened(); err != nil {
				return stopped{err}
			}
		}
		return nil
	case rest.ChangeEnd:
		return stopped{problem.New(problem.NotAuthenticated, "the token is not valid any more")}
	case rest.ChangeDropped:
		return nil
	}
	if err := each(ch); err != nil {
		return stopped{err}
	}
	return nil
}
