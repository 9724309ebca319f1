package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShowsFailure(t *testing.T) {
	t.Parallel()
	const asJSON = "application/json"
	for _, c := range []struct {
		kind, body string
		want       bool
	}{
		{asJSON, ``, true},
		{"image/png", "", true},
		{asJSON, " \r\n\t", true},
		{"text/plain", "I cannot draw that.", true},
		{"Text/HTML; charset=utf-8", "<h1>busy</h1>", true},
		{"text/plain;charset=x", `"a text in quotes"`, true},
		{asJSON, `{"error":{"code":"moderation_blocked"}}`, true},
		{asJSON, `{"created":1,"error":"no capacity","data":null}`, true},
		{asJSON, ` { "data" : [ ] , "error" : 17 } `, true},
		{asJSON, `{"error":true}`, true},
		{asJSON, `{"\u0065rror":["x"]}`, true},
		{"text/plain", `{"error":"JSON by another name"}`, true},
		{"", `{"error":"no type"}`, true},

		{asJSON, `{"images":["…"]}`, false},
		{asJSON, `{"error":null,"images":["…"]}`, false},
		{asJSON, `{"error":false,"images":["…"]}`, false},
		{asJSON, `{"error":"","images":["…"]}`, false},
		{asJSON, `{"error":0,"images":["…"]}`, false},
		{asJSON, `{"error":{},"images":["…"]}`, false},
		{asJSON, `{"error":[ ],"images":["…"]}`, false},
		{asJSON, `{"result":{"error":"not of the answer"}}`, false},
		{asJSON, `{"Error":"another name"}`, false},
		{asJSON, `[{"error":"an element's"}]`, false},
		{asJSON, `{"error":"broken off`, false},
		{asJSON, `{"error":"x"} and more`, false},
		{asJSON, `{"error" "x"}`, false},
		{asJSON, `{"error":`, false},
		{asJSON, `{`, false},
		{asJSON, strings.Repeat(`{"error":`, 100) + "1" + strings.Repeat("}", 100), false}, // too deep to be read
		{asJSON, `<html>`, false},
		{"text/plain", `{"images":["JSON by another name"]}`, false},
		{"text/html", `["JSON by another name"]`, false},
		{"text/event-stream", "data: {}\n\n", false},
		{"image/png", "\x89PNG", false},
		{"", "a text without a type", false},
		{"text/csv", "a,b", false},
	} {
		require.Equal(t, c.want, ShowsFailure([]byte(c.kind), []byte(c.body)), "%s: %.60s", c.kind, c.body)
	}
}
