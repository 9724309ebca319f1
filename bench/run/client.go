package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"creditgate/bench/load"
)

// What the client's process says of itself, a line each; its result is the last line.
const (
	saysBegan = "began"
	saysEnded = "ended"
)

// resultMax bounds the line with the result: mostly its histogram.
const resultMax = 1 << 20

// serveClient is the client's process: options in, moments and result out.
func serveClient(ctx context.Context, in io.Reader, out io.Writer) error {
	var o load.Options
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("load: its options on standard input: %w", err)
	}
	say := func(word string) func() { return func() { fmt.Fprintln(out, word) } }
	r, err := load.Run(ctx, o, load.Moments{Began: say(saysBegan), Ended: say(saysEnded)})
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// askWith runs a client of its own process and calls the moments with its id when they come.
func askWith(ctx context.Context, self string, o load.Options, began, ended func(pid int) error) (r load.Result, err error) {
	options, err := json.Marshal(o)
	if err != nil {
		return r, fmt.Errorf("options of the client: %w", err)
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "load")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(options), &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, fmt.Errorf("pipe from the client: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("start the client: %w", err)
	}
	err = listen(out, cmd.Process.Pid, began, ended, &r)
	if err != nil {
		_ = cmd.Process.Kill() // else it would go on for its time
	}
	if waited := cmd.Wait(); waited != nil {
		err = errors.Join(err, fmt.Errorf("the client ended: %w\n%s", waited, complaint.String()))
	}
	return r, err
}

// listen follows what the client says, to its end.
func listen(out io.Reader, pid int, began, ended func(pid int) error, r *load.Result) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, resultMax)
	for lines.Scan() {
		var err error
		switch line := lines.Text(); line {
		case saysBegan:
			err = began(pid)
		case saysEnded:
			err = ended(pid)
		default:
			err = json.Unmarshal(lines.Bytes(), r)
		}
		if err != nil {
			return err
		}
	}
	return lines.Err()
}
