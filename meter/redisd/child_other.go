//go:build !linux

package redisd

import "syscall"

// childAttr cannot tie the child's life to its parent's here: after a crash of the parent the directory's lock
// names the pid that is left. A process group of its own keeps a terminal's Ctrl-C away from the server.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func awaitStopped(*process) error { return nil }
