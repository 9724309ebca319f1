//go:build !linux

package rivals

import "syscall"

// childAttr cannot tie nginx to the life of this process here. A process group of its own keeps a terminal's Ctrl-C
// from it: it is ended in its turn.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
