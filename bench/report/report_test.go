package report_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/bench/report"
	"creditgate/bench/result"
)

// X is a scratch.
func TestX(t *testing.T) {
	run, err := result.Read(os.Getenv("X_RUN"))
	require.NoError(t, err)
	path, err := report.Write(run, filepath.Dir(os.Getenv("X_RUN")))
	require.NoError(t, err)
	t.Log(path)
}
