package main_test

import (
	"testing"
	"time"
)

func startTestClock(t *testing.T, database string, at time.Time) { t.Helper() }
