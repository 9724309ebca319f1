package policy

import (
	"iter"
	"maps"
	"slices"
	"sync/atomic"
)

// Catalog is the policies in force, by product. Replace exchanges them all at once; whoever has taken a policy from it
// before goes on with that one, so that a request is priced and settled by one policy.
type Catalog struct {
	current atomic.Pointer[map[string]*Policy]
}

// NewCatalog makes a catalog of policies by product.
func NewCatalog(policies map[string]*Policy) *Catalog {
	c := new(Catalog)
	c.Replace(policies)
	return c
}

// Replace puts other policies in force.
func (c *Catalog) Replace(policies map[string]*Policy) {
	own := maps.Clone(policies)
	c.current.Store(&own)
}

// Policy is the policy of a product, nil if there is none.
func (c *Catalog) Policy(product string) *Policy { return (*c.current.Load())[product] }

// Products are the names of all products, sorted.
func (c *Catalog) Products() []string { return slices.Sorted(maps.Keys(*c.current.Load())) }

// All goes through the policies in force at this moment, by product.
func (c *Catalog) All() iter.Seq2[string, *Policy] {
	current := *c.current.Load()
	return func(yield func(string, *Policy) bool) {
		for _, name := range slices.Sorted(maps.Keys(current)) {
			if !yield(name, current[name]) {
				return
			}
		}
	}
}

// OnlyProduct is the product of a deployment that has one, else "".
func (c *Catalog) OnlyProduct() string {
	if names := c.Products(); len(names) == 1 {
		return names[0]
	}
	return ""
}
