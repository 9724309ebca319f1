package meter_test

import (
	"os"
	"testing"

	"github.com/rs/zerolog"

	"creditgate/meter"
)

// TestMain silences go-redis, which otherwise writes its reconnections into the results of tests that kill Redis.
func TestMain(m *testing.M) {
	meter.LogRedis(zerolog.Nop())
	os.Exit(m.Run())
}
