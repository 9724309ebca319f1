package rivals

import "syscall"

// childAttr makes the kernel ask nginx to end when this process dies, however that happens; its master then ends the
// workers. A process group of its own keeps a terminal's Ctrl-C from it: it is ended in its turn.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
