package rivals

import "fmt"

// Account is the name of the benchmark's account number i.
func Account(i int) string { return fmt.Sprintf("bench-%07d", i) }

// Key is its API key.
func Key(i int) string { return fmt.Sprintf("sk-bench-%07d", i) }

// directory returns the account of every API key.
func directory(accounts int) map[string]string {
	d := make(map[string]string, accounts)
	for i := range accounts {
		d[Key(i)] = Account(i)
	}
	return d
}
