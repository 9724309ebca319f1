package stage

import "syscall"

// childAttr lets the kernel kill a child whose parent is gone, and keeps the terminal's Ctrl-C from it: it is told to
// end in its turn.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
