package webhook

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Bounds of a secret, in bytes behind its prefix once decoded, as Standard Webhooks has them.
const (
	secretPrefix = "whsec_"
	secretMin    = 24
	secretMax    = 64
)

// NewSecret makes a secret: 256 random bits.
func NewSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(b[:])
}

// CheckSecret says what is wrong with a secret that was given.
func CheckSecret(s string) error {
	text, ok := strings.CutPrefix(s, secretPrefix)
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(b) < secretMin || len(b) > secretMax {
		return fmt.Errorf("a secret is %s followed by the base64 of %d to %d random bytes; leave it out to have one made",
			secretPrefix, secretMin, secretMax)
	}
	return nil
}

// sign is the value of webhook-signature: a signature for each secret, so that a receiver may change over in its time.
func sign(secrets []string, id string, at time.Time, body []byte) (string, error) {
	signatures := make([]string, 0, len(secrets))
	for _, s := range secrets {
		w, err := standardwebhooks.NewWebhook(s)
		if err != nil {
			return "", err
		}
		signature, err := w.Sign(id, at, body)
		if err != nil {
			return "", err
		}
		signatures = append(signatures, signature)
	}
	return strings.Join(signatures, " "), nil
}
