//go:build !linux

package main

import "syscall"

// childAttr keeps a terminal's Ctrl-C from the child, which is ended in its turn. Here nothing ends it when this process
// is killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
