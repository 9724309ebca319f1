//go:build !linux

package stage

import "syscall"

// childAttr keeps the terminal's Ctrl-C from a child: it is told to end in its turn.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
