package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExamplesLoad(t *testing.T) {
	t.Parallel()
	for _, name := range Examples() {
		src, err := Example(name)
		require.NoError(t, err)
		p, err := Parse(name+".yaml", src)
		require.NoError(t, err)
		t.Log(p.Summary())
	}
}
