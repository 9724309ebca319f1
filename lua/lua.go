// Package lua holds the functions that change credit. What is atomic is here and nowhere else: the verbs of the
// state machine as one function each, a small library they share, and what Redis may call of it.
//
// It refuses to decide anything in Go; it only embeds and assembles.
//
//	library.lua         the order of the parts
//	verbs/*.lua         one verb each; its header gives OP, REPLY, INVARIANT, COST
//	lib/codes.lua       reply codes, states, kinds, bounds
//	lib/account.lua     the account value, drain order, forgetting
//	lib/reservation.lua reservations and Idempotency-Key records
//	lib/ledger.lua      entries, and how a reservation ends
//	lib/section.lua     one partition in a call: fence, clock, write phase
//	lib/batch.lua       read, compute, write, answer
//	apply.lua           function: a batch of operations
//	open.lua            function: a new epoch for a partition
//	lock.lua            function: who sweeps
//	store_answer.lua    function: answers kept for replay, outside the credit keys
package lua

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"strings"
)

//go:embed *.lua lib/*.lua verbs/*.lua
var files embed.FS

// Library is what FUNCTION LOAD takes, and the names of the functions in it, for FCALL. Names end with a digest of
// the code: gateways of two versions may use one Redis, and loading what is there already changes nothing.
type Library struct {
	Source string
	// Script is the same as a script, which runs the function that its last argument names. A Redis that is full refuses
	// FUNCTION LOAD, and runs a script that allows it. It defines the whole library at each call.
	Script string

	ApplySettle  string
	ApplyReserve string
	Open         string
	Lock         string
	StoreAnswer  string
}

// Load assembles the library.
func Load() (Library, error) {
	body, err := assemble("library.lua")
	if err != nil {
		return Library{}, fmt.Errorf("lua: %w", err)
	}
	return New(body), nil
}

// New names a library after its body; tests plant bugs in one.
func New(body string) Library {
	sum := sha256.Sum256([]byte(body))
	version := "_" + hex.EncodeToString(sum[:6])
	named := "local VERSION = '" + version + "'\n" + body
	return Library{
		Source:      "#!lua name=creditgate" + version + "\n" + named,
		Script:      scriptBegin + named + scriptEnd,
		ApplySettle: "apply_settle" + version, ApplyReserve: "apply_reserve" + version,
		Open: "open" + version, Lock: "lock" + version, StoreAnswer: "store_answer" + version,
	}
}

// What makes a script of the library.
const (
	scriptBegin = `#!lua flags=allow-oom
local script_keys, script_args, functions = KEYS, ARGV, {}
local redis = {call = redis.call, register_function = function(f) functions[f.function_name] = f.callback end}
`
	scriptEnd = "\nreturn functions[table.remove(script_args)](script_keys, script_args)\n"
)

// Body is the source without the lines that name it.
func (l Library) Body() string {
	_, rest, _ := strings.Cut(l.Source, "\n")
	_, body, _ := strings.Cut(rest, "\n")
	return body
}

// Source is one file as embedded, such as "verbs/reserve.lua"; tests hold headers and bodies together with it.
func Source(file string) (string, error) {
	b, err := files.ReadFile(file)
	return string(b), err
}

// assemble replaces each include line by its file. Includes are one level deep and comments are kept.
func assemble(file string) (string, error) {
	source, err := Source(file)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(source) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "--include ")
		if !ok {
			out.WriteString(line)
			continue
		}
		part, err := Source(name)
		if err != nil {
			return "", err
		}
		out.WriteString(part)
	}
	return out.String(), nil
}
