package report

import (
	"fmt"
	"html"
	"html/template"
	"strings"
)

// Measures of a bar chart.
const (
	barStep   = 34.0
	barHeight = 20.0
	barLeft   = 150.0
	barRight  = 60.0 // room for the sum
)

// bar is a sum of parts.
type bar struct {
	name  string
	parts []part
}

type part struct {
	name, class string
	value       float64
}

// drawBars stacks the parts of each bar from left to right. The sum stands at its end. Nil without bars.
func drawBars(title, note, label string, bars []bar) *plot {
	if len(bars) == 0 {
		return nil
	}
	p := &plot{Title: title, Note: note}
	top := 0.0
	for _, b := range bars {
		top = max(top, b.sum())
	}
	x := axis{label: label, from: barLeft, to: chartWidth - barRight}
	x.spanZero(0, top)
	foot := marginTop + barStep*float64(len(bars))
	var out strings.Builder
	open(&out, title, foot+marginBottom)
	for _, t := range x.ticks {
		fmt.Fprintf(&out, `<path class="grid" d="M%.1f %.1fV%.1f"/>`, x.place(t.at), marginTop, foot)
		text(&out, "middle", x.place(t.at), foot+17, t.text)
	}
	text(&out, "middle", (x.from+x.to)/2, foot+38, label)
	shown := map[string]bool{}
	for i, b := range bars {
		y := marginTop + barStep*float64(i) + (barStep-barHeight)/2
		text(&out, "end", barLeft-8, y+barHeight/2+4, b.name)
		sum := 0.0
		for _, part := range b.parts {
			if part.value <= 0 {
				continue
			}
			from := x.place(sum)
			sum += part.value
			fmt.Fprintf(&out, `<rect class="bar %s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s, %s: %s</title></rect>`,
				part.class, from, y, x.place(sum)-from, barHeight, html.EscapeString(b.name), html.EscapeString(part.name),
				number(part.value))
			shown[part.class] = true
		}
		text(&out, "start", x.place(sum)+6, y+barHeight/2+4, number(sum))
	}
	out.WriteString("</svg>")
	for _, part := range bars[0].parts { // every bar has all of them, in the order in which they are stacked
		if shown[part.class] {
			p.Legend = append(p.Legend, legend{Name: part.name, Class: part.class})
		}
	}
	p.SVG = template.HTML(out.String()) //nolint:gosec // every text in it was escaped
	return p
}

func (b bar) sum() float64 {
	sum := 0.0
	for _, p := range b.parts {
		sum += p.value
	}
	return sum
}
