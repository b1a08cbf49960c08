package guest

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// powerButton hears the ACPI power button, which the hypervisor presses.
type powerButton struct {
	pressed chan struct{}
}

// openPowerButton opens all input devices; the button is one of them.
func openPowerButton() (*powerButton, error) {
	paths, err := filepath.Glob("/dev/input/event*")
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("open power button: no input device (%v)", err)
	}
	b := &powerButton{pressed: make(chan struct{}, 1)}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, fmt.Errorf("open power button: %w", err)
		}
		go b.read(f)
	}
	return b, nil
}

// wait returns when the button is pressed.
func (b *powerButton) wait() { <-b.pressed }

// read waits for the key. Layout of struct input_event on 64 bits: 16 bytes of
// time, type, code, value; EV_KEY is 1, KEY_POWER 116 (linux/input-event-codes.h).
func (b *powerButton) read(f *os.File) {
	defer f.Close()
	var e [24]byte
	for {
		if _, err := io.ReadFull(f, e[:]); err != nil {
			return
		}
		le := binary.LittleEndian
		if le.Uint16(e[16:]) == 1 && le.Uint16(e[18:]) == 116 && le.Uint32(e[20:]) == 1 {
			select {
			case b.pressed <- struct{}{}:
			default:
			}
		}
	}
}
