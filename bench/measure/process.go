package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc. USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// processesMax bounds a tree, against a /proc that changes while it is read.
const processesMax = 4096

// CPU is the time that a process and all its descendants have used, those included that have ended and were waited for.
func CPU(pid int) (time.Duration, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	root, there := all[pid]
	if !there {
		return 0, fmt.Errorf("measure: process %d does not run", pid)
	}
	children := map[int][]process{}
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p)
	}
	sum, queue := time.Duration(0), []process{root}
	for len(queue) > 0 && len(queue) < processesMax {
		p := queue[0]
		sum += p.used
		queue = append(queue[1:], children[p.pid]...)
	}
	return sum, nil
}

// Resident is the memory that a process has in RAM, and the most that it had since it started, in bytes.
func Resident(pid int) (now, peak float64, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, 0, fmt.Errorf("measure: memory of process %d: %w", pid, err)
	}
	const kilo = 1024
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("measure: %s of process %d: %w", name, pid, err)
		}
		if name == "VmRSS" {
			now = n * kilo
		} else {
			peak = n * kilo
		}
	}
	if now <= 0 || peak < now {
		return 0, 0, fmt.Errorf("measure: process %d has no memory that can be read", pid)
	}
	return now, peak, nil
}

// process is one line of /proc/PID/stat.
type process struct {
	pid, parent int
	used        time.Duration // its own, and its ended children's
}

func processes() (map[int]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(errors.New("measure: there is no /proc: CPU time by process is measured on Linux"), err)
	}
	all := make(map[int]process, len(paths))
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && len(line) == 0 {
			continue // it ended meanwhile
		}
		p, err := parseStat(line)
		if err != nil {
			return nil, fmt.Errorf("measure: %s: %w", path, err)
		}
		all[p.pid] = p
	}
	return all, nil
}

// Fields of /proc/PID/stat after the name, which is in parentheses and may hold anything, spaces and parentheses too.
const (
	fieldParent = 1
	fieldUser   = 11 // user, system, children's user, children's system
	fieldsUsed  = 4
)

func parseStat(line []byte) (process, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return process{}, fmt.Errorf("no name in %q", line)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	if err != nil {
		return process{}, err
	}
	fields := bytes.Fields(line[end+1:])
	if len(fields) < fieldUser+fieldsUsed {
		return process{}, fmt.Errorf("%d fields in %q", len(fields), line)
	}
	p := process{pid: pid}
	if p.parent, err = strconv.Atoi(string(fields[fieldParent])); err != nil {
		return process{}, err
	}
	for _, field := range fields[fieldUser : fieldUser+fieldsUsed] {
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return process{}, err
		}
		p.used += time.Duration(ticks) * tick
	}
	return p, nil
}
