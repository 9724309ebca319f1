package policy

import (
	"embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // timezone means the same on a machine without zone files

	"creditgate/meter"
)

//go:embed examples/*.yaml
var examples embed.FS

// Examples are the names of the embedded policies: dev and the three seed products.
func Examples() []string {
	entries, _ := examples.ReadDir("examples") // embedded: it is there
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// Example is the source of an embedded policy.
func Example(name string) ([]byte, error) {
	src, err := examples.ReadFile("examples/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("policy: no example %q; there are %s", name, strings.Join(Examples(), ", "))
	}
	return src, nil
}

// Load reads a policy from a file. The error is a *FileError, or the one of reading the file.
func Load(path string) (*Policy, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(path, src)
}

// Parse reads a policy. file names it in messages. The error is a *FileError.
func Parse(file string, src []byte) (*Policy, error) {
	r := &report{file: file}
	if len(src) > sourceBytesMax {
		r.add(Problem{Detail: fmt.Sprintf("has %d bytes; %d are the most", len(src), sourceBytesMax)})
		return nil, r.err()
	}
	root, ok := document(r, src)
	if !ok {
		return nil, r.err()
	}
	p := decodePolicy(root)
	if err := r.err(); err != nil {
		return nil, err
	}
	sortProblems(r.warnings)
	p.Warnings = r.warnings
	p.routes = newRoutes(p.Operations)
	p.version = p.hash()
	return p, nil
}

// decodePolicy reads all parts, each after those that it names things of.
func decodePolicy(root item) *Policy {
	keys, ok := root.fields("a mapping with name, buckets and operations",
		"name", "timezone", "buckets", "cycle", "plans", "promotions", "packs", "subscriptions", "purchases", "advice", "events",
		"operations", "unmatched", "assumptions")
	if !ok {
		return nil
	}
	d := &draft{
		Policy: &Policy{Location: time.UTC},
		packAt: map[string]item{}, promotionAt: map[string]item{}, buyersSaid: map[string]bool{},
	}
	root.need(keys, "every policy has a name, buckets and operations", "name", "buckets", "operations")
	_, d.hasPlans = keys["plans"]
	_, d.hasCycle = keys["cycle"]
	for _, part := range []struct {
		key    string
		decode func(item)
	}{
		{"name", func(i item) { d.Name = decodeName(i) }},
		{"timezone", func(i item) { d.Location = decodeZone(i) }},
		{"buckets", func(i item) { d.Buckets = decodeBuckets(i) }},
		{"cycle", func(i item) { d.Cycle = decodeCycle(i) }},
		{"subscriptions", d.decodeSubscriptions},
		{"purchases", d.decodePurchases},
		{"advice", d.decodeAdvice},
		{"events", d.decodeNotices},
		{"promotions", d.decodePromotions},
		{"packs", d.decodePacks},
		{"plans", d.decodePlans},
		{"operations", func(i item) { d.Operations = decodeOperations(i) }},
		{"unmatched", func(i item) { d.Pass = decodeUnmatched(i) }},
		{"assumptions", d.decodeAssumptions},
	} {
		if i, ok := keys[part.key]; ok {
			part.decode(i)
		}
	}
	d.checkReached()
	d.checkOpenList()
	return d.Policy
}

func decodeName(i item) string {
	name, ok := i.word("a name such as my-studio")
	if ok {
		checkName(i, name)
	}
	return name
}

func checkName(i item, name string) {
	if !meter.ValidName(name) {
		i.failf("%q is not a name; write 1 to 64 of A-Z a-z 0-9 . _ -", name)
	}
}

func decodeZone(i item) *time.Location {
	zone, ok := i.word("a timezone such as Europe/Berlin")
	if !ok {
		return time.UTC
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || zone == "" || zone == "Local" {
		i.failf("%q is not a known timezone; write one of the IANA names, such as Europe/Berlin or UTC", zone)
		return time.UTC
	}
	return loc
}

func decodeBuckets(i item) []string {
	list, ok := i.list("a list of names in drain order, such as [promo, monthly, purchased]")
	switch {
	case !ok:
		return nil
	case len(list) == 0:
		i.failf("is empty; name at least one bucket, such as [purchased]")
	case len(list) > bucketsMax:
		i.failf("has %d buckets; %d are the most", len(list), bucketsMax)
	}
	var names []string
	for _, b := range list {
		name := decodeName(b)
		if n := slices.Index(names, name); n >= 0 && name != "" {
			b.failf("%s is already the bucket with rank %d; name each bucket once", name, n)
		}
		if name == packsKey {
			b.failf("packs is a key of plans; give the bucket another name, such as purchased")
		}
		names = append(names, name)
	}
	return names
}

func decodeUnmatched(i item) bool {
	return i.choice("refuse", "pass") == "pass"
}
