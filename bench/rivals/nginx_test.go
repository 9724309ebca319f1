package rivals

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNginxThatIsNotHere(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	_, err := findNginx(root)
	require.ErrorIs(t, err, ErrNotHere)
	require.EqualError(t, err, "nginx with Lua is not here: apt-get install nginx libnginx-mod-http-lua lua-nginx-redis")

	for _, file := range []string{"usr/sbin/nginx", "usr/lib/nginx/modules/ngx_http_lua_module.so"} {
		path := filepath.Join(root, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, nil, 0o700))
	}
	_, err = findNginx(root)
	require.EqualError(t, err, "nginx with Lua is not here: apt-get install lua-nginx-redis")

	for _, name := range []string{"backend", "proxy", "naive", "pgrow"} {
		require.NoError(t, Available(name))
	}
}

func TestNginxThatDoesNotStart(t *testing.T) {
	t.Parallel()
	programs, err := findNginx("/")
	if err != nil {
		t.Log("not tested:", err)
		return
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte("no_such_word;"), 0o600))
	p, err := startNginx(programs.nginx, dir)
	require.NoError(t, err)
	require.ErrorContains(t, p.await(t.Context(), "127.0.0.1:1"), `unknown directive "no_such_word"`)
}
