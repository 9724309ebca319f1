package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Nothing that is set becomes the default in silence: not 0 where it would be no time at all, and not an empty variable.
func TestNoSettingIsDroppedInSilence(t *testing.T) {
	t.Parallel()
	meansSomething := map[string]bool{ // set to 0, or to nothing
		"drain_delay": true, "shutdown_timeout": true, "verify_every": true, "max_in_flight": true,
		"migrate_url": true, "replay_redis_url": true, "trusted_peers": true, "webhook_networks": true,
	}
	for _, s := range defaultConfig().settings() {
		zero := map[string]string{"duration": "0s", "number": "0", "size": "0", "share": "0"}[s.value.kind]
		_, err := loaded(t, "", []string{envName(s.name) + "=" + zero})
		if meansSomething[s.name] {
			require.NoError(t, err, s.name)
		} else {
			require.ErrorContains(t, err, envName(s.name)+": ", s.name)
		}
		if zero == "" || !meansSomething[s.name] {
			continue
		}
		_, err = loaded(t, "", []string{envName(s.name) + "="})
		require.ErrorContains(t, err, envName(s.name)+": is set to nothing")
	}
	_, err := loaded(t, "", []string{"CREDITGATE_UPSTREAM_TIMEOUT=0s", "CREDITGATE_LEASE_MARGIN=0s", "CREDITGATE_LOG_LEVEL="})
	require.EqualError(t, err, `CREDITGATE_UPSTREAM_TIMEOUT: "0s" must lie between 1ms and 720h
CREDITGATE_LEASE_MARGIN: "0s" must lie between 1ms and 720h
CREDITGATE_LOG_LEVEL: is set to nothing; give it a value, or leave it out`)
	c, err := loaded(t, "trusted_peers: 10.0.0.0/8\n", []string{"CREDITGATE_TRUSTED_PEERS=", "CREDITGATE_CONFIG="})
	require.NoError(t, err)
	require.Empty(t, c.Gateway.TrustedPeers, "nobody is trusted, whatever the file says")
	_, err = loaded(t, "", []string{"CREDITGATE_CONFIG="})
	require.EqualError(t, err, "CREDITGATE_CONFIG: is set to nothing; give it a value, or leave it out")
	status, _, said := command(t, nil, "serve", "--prefix", "")
	require.Equal(t, 1, status)
	require.Contains(t, said, "is set to nothing")
}

func TestVersionFlag(t *testing.T) {
	t.Parallel()
	_, word, _ := command(t, nil, "version")
	status, flag, said := command(t, nil, "--version")
	require.Zero(t, status, said)
	require.Equal(t, word, flag)
}
