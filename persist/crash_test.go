package persist_test

import "os"

const crashEnv = "PERSIST_TEST_CRASH"

func crash() { os.Exit(1) }
