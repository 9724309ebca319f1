package persist_test

import (
	"os"
	"testing"

	"creditgate/persist/persisttest"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crash()
	}
	if os.Getenv(purchaseCrashEnv) != "" {
		crashPurchase()
	}
	persisttest.Main(m)
}
