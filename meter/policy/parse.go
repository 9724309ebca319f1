package policy

// Parse reads a policy. file names it in messages. The error is Problems.
func Parse(file string, src []byte) (*Policy, error) { return nil, nil }

// Load reads a policy from a file.
func Load(path string) (*Policy, error) { return nil, nil }

// Examples are the names of the embedded policies: dev and the three seed products.
func Examples() []string { return nil }

// Example is the source of an embedded policy.
func Example(name string) ([]byte, error) { return nil, nil }
