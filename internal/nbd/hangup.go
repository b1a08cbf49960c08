package nbd

import "golang.org/x/sys/unix"

// HungUp asks the kernel whether the client has closed its end of the socket,
// which may be before this end has read what came first. It is exact for
// connections served with BlockingIO over Unix sockets and reports only what
// Alive knows for others.
func (c *Conn) HungUp() bool {
	if !c.Alive() {
		return true
	}
	c.mu.Lock() // the socket changes hands after OnOpen
	t, ok := c.t.(*blockingTransport)
	c.mu.Unlock()
	return ok && t.hungUp()
}

func (t *blockingTransport) hungUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || n > 0
	}
}
