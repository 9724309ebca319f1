package meter_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

func TestRedisURLErrorsKeepTheSecret(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://user:s3cret@host:6379/0":                   "scheme",
		"redis://user:s3cret@host:6379/zero":               "database",
		"redis://user:s3cret@host:port/0":                  "not a URL",
		"redis://user:s3cret/part@host:6379/0":             "not a URL",
		"redis://user:s3cret@host:6379/0?max_retries=3":    "max_retries",
		"redis://user:s3cret@host:6379/0?pool_size=1&db=2": "pool_size",
		"rediss://user:s3cret@host:6379?skip_verify=true":  "skip_verify",
		"unix://user:s3cret@/run/redis.sock,other:6379":    "unix",
		"redis://user:s3cret@host:6379,redis://other:6379": "host:port",
		"redis://user:s3cret@host:6379,other:6379/0":       "host:port",
		"redis://user:s3cret@host:6379,":                   "host:port",
	} {
		_, err := meter.NewRedis(url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestRedisURLForms(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]redis.Options{
		"redis://host":                          {Network: "tcp", Addr: "host:6379"},
		"redis://:p%2Cw@host:7/3":               {Network: "tcp", Addr: "host:7", DB: 3, Password: "p,w"},
		"redis://host:7?db=4":                   {Network: "tcp", Addr: "host:7", DB: 4},
		"unix://u:p@/run/redis/redis.sock?db=2": {Network: "unix", Addr: "/run/redis/redis.sock", DB: 2, Username: "u", Password: "p"},
	} {
		c, err := meter.NewRedis(url)
		require.NoError(t, err, url)
		one, ok := c.(*redis.Client)
		require.True(t, ok)
		got := one.Options()
		require.Equal(t, want, redis.Options{
			Network: got.Network, Addr: got.Addr, DB: got.DB, Username: got.Username, Password: got.Password,
		}, url)
		require.NoError(t, c.Close())
	}
	c, err := meter.NewRedis("redis://a:1,b:2,[::1]:3")
	require.NoError(t, err)
	require.IsType(t, &redis.ClusterClient{}, c)
	require.NoError(t, c.Close())
}
