package policy

// What a memory keeps from one request to the next. An image API's requests and answers have a handful of objects.
const (
	objectsKept = 64 // maps
	listsKept   = 64 // counted lists shorter than this are kept as values
	wordsKept   = 8  // texts, such as "ok" and "failed"
	wordMax     = 32 // bytes
)

// memory is what the values of one request are put in. Requests of an operation use it one after another; maps are
// emptied in between. Lists and words stay, since they do not change: a word serves whoever sends the same one.
type memory struct {
	env     map[string]any
	objects []map[string]any
	used    int // of objects
	lists   [listsKept]any
	words   [wordsKept]string
	word    int // to be replaced next
	headers headers
	line    func(key, value []byte) bool // headers.line
}

func newMemory() any {
	m := &memory{env: make(map[string]any, 6)}
	m.line = m.headers.line
	return m
}

// memory is one that is empty. It need not be given back.
func (o *Operation) memory() *memory {
	if m, ok := o.memories.Get().(*memory); ok {
		return m
	}
	m, _ := newMemory().(*memory)
	return m
}

// forget empties m and lets another request have it.
func (o *Operation) forget(m *memory) {
	clear(m.env)
	for _, obj := range m.objects[:m.used] {
		clear(obj)
	}
	m.used, m.headers = 0, headers{}
	o.memories.Put(m)
}

// object is an empty map.
func (m *memory) object(size int) map[string]any {
	if m.used < len(m.objects) {
		m.used++
		return m.objects[m.used-1]
	}
	obj := make(map[string]any, size)
	if len(m.objects) < objectsKept {
		m.objects = append(m.objects, obj)
		m.used++
	}
	return obj
}

// list is a list of n elements of which nothing is wanted.
func (m *memory) list(n int) any {
	if n >= listsKept {
		return make(counted, n)
	}
	if m.lists[n] == nil {
		m.lists[n] = make(counted, n)
	}
	return m.lists[n]
}

// text is a copy of b; of the words that keep coming up, one copy serves many requests.
func (m *memory) text(b []byte) string {
	if len(b) > wordMax {
		return string(b)
	}
	for _, w := range m.words {
		if string(b) == w {
			return w
		}
	}
	w := string(b)
	m.words[m.word] = w
	m.word = (m.word + 1) % wordsKept
	return w
}
