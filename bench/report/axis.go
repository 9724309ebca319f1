package report

import "math"

// axis maps values to a stretch of the drawing.
type axis struct {
	label    string
	log      bool
	ticks    []tick
	low, top float64 // values at from and to
	from, to float64
}

type tick struct {
	at   float64
	text string
}

func (a *axis) place(v float64) float64 {
	low, top := a.low, a.top
	if a.log {
		low, top, v = math.Log10(low), math.Log10(top), math.Log10(max(v, a.low))
	}
	return a.from + (v-low)/(top-low)*(a.to-a.from)
}

// linearTicks is about how many ticks a linear axis has.
const linearTicks = 5

// spanZero makes a linear axis from 0 (or from what lies below) to a round number above.
func (a *axis) spanZero(low, top float64) {
	low = min(low, 0)
	if top <= low {
		top = low + 1
	}
	raw := (top - low) / linearTicks
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, times := range []float64{1, 2, 2.5, 5, 10} {
		if step*times >= raw {
			step *= times
			break
		}
	}
	a.low, a.top = math.Floor(low/step)*step, math.Ceil(top/step)*step
	a.ticks = nil
	for i := 0; a.low+float64(i)*step <= a.top+step/2; i++ {
		at := a.low + float64(i)*step
		a.ticks = append(a.ticks, tick{at, limit(at)})
	}
}

// spanLog makes a logarithmic axis with ticks at 1, 2 and 5 of each decade, or at 1 alone where that were too many.
func (a *axis) spanLog(low, top float64) {
	const densest = 2.5 // decades
	a.log = true
	steps := []float64{1, 2, 5}
	if math.Log10(top/low) > densest {
		steps = steps[:1]
	}
	a.ticks, a.low, a.top = nil, 0, 0
	for decade := math.Pow(10, math.Floor(math.Log10(low))); a.top < top; decade *= 10 {
		for _, step := range steps {
			at := decade * step
			if at <= low*(1+1e-9) {
				a.low, a.ticks = at, a.ticks[:0]
			}
			if a.top < top {
				a.ticks, a.top = append(a.ticks, tick{at, limit(at)}), at
			}
		}
	}
	if a.low == a.top {
		a.top *= 10
	}
}

// spanValues makes an axis with a tick at each of the given values, evenly apart.
func (a *axis) spanValues(at []float64) {
	a.log, a.ticks = true, nil
	for _, v := range at {
		a.ticks = append(a.ticks, tick{v, limit(v)})
	}
	const margin = 1.3
	a.low, a.top = at[0]/margin, at[len(at)-1]*margin
}
