// Package lua holds the scripts that change credit. What is atomic is here and nowhere else: the verbs of the
// state machine as one function each, a small library they share, and the entry scripts that Redis runs.
//
// It refuses to decide anything in Go; it only embeds and assembles.
//
//	verbs/*.lua         one verb each; its header gives OP, REPLY, INVARIANT, COST
//	lib/codes.lua       reply codes, states, kinds, bounds
//	lib/account.lua     the account value, drain order, forgetting
//	lib/reservation.lua reservations and Idempotency-Key records
//	lib/ledger.lua      entries, and how a reservation ends
//	lib/section.lua     one partition in a call: fence, clock, write phase
//	lib/batch.lua       read, compute, write, answer
//	apply_settle.lua    entry: everything but reserve; runs when memory is full
//	apply_reserve.lua   entry: reserve
//	open.lua            entry: a new epoch for a partition
//	store_answer.lua    entry: answers kept for replay, outside the credit keys
package lua

import (
	"crypto/sha1" //nolint:gosec // not for security: it is the name Redis gives a script
	"embed"
	"encoding/hex"
	"fmt"
	"strings"
)

//go:embed *.lua lib/*.lua verbs/*.lua
var files embed.FS

// Script is an entry script, ready for EVALSHA.
type Script struct {
	Name   string
	Source string
	SHA    string // SHA-1 of Source in hex, as Redis names it
}

// Scripts are the entry scripts.
type Scripts struct {
	ApplySettle  Script
	ApplyReserve Script
	Open         Script
	StoreAnswer  Script
}

// Load assembles the entry scripts.
func Load() (Scripts, error) {
	var s Scripts
	for name, into := range map[string]*Script{
		"apply_settle": &s.ApplySettle, "apply_reserve": &s.ApplyReserve, "open": &s.Open, "store_answer": &s.StoreAnswer,
	} {
		source, err := assemble(name + ".lua")
		if err != nil {
			return Scripts{}, fmt.Errorf("lua: %s: %w", name, err)
		}
		sum := sha1.Sum([]byte(source)) //nolint:gosec // as above
		*into = Script{Name: name, Source: source, SHA: hex.EncodeToString(sum[:])}
	}
	return s, nil
}

// All lists the entry scripts, to load them.
func (s Scripts) All() []Script {
	return []Script{s.ApplySettle, s.ApplyReserve, s.Open, s.StoreAnswer}
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
