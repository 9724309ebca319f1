package main

import "syscall"

// childAttr makes the kernel kill the child when this process dies, however that happens; both are made to survive
// it. A process group of its own keeps a terminal's Ctrl-C from it: it is ended in its turn.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
