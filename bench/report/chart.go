package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// The drawing, in units of its view box. The page scales it.
const (
	chartWidth   = 640.0
	chartHeight  = 340.0
	marginLeft   = 78.0
	marginRight  = 18.0
	marginTop    = 12.0
	marginBottom = 46.0
)

// point has a spread where it is of several rounds.
type point struct{ x, y, low, high float64 }

// line is one series. Its class is that of its colour in the page's style.
type line struct {
	name, class string
	points      []point
	dots        bool
}

// plot is one drawing of the page.
type plot struct {
	Title, Note string
	Legend      []legend
	SVG         template.HTML
}

// legend is drawn as a piece of its line, or as a patch of its bar.
type legend struct {
	Name, Class string
	Line        bool
}

// draw makes a plot of lines. The axes' spans are set already. Nil without a line that has a point.
func draw(title, note string, x, y axis, lines []line) *plot {
	p := &plot{Title: title, Note: note}
	var b strings.Builder
	open(&b, title, chartHeight)
	x.from, x.to = marginLeft, chartWidth-marginRight
	y.from, y.to = chartHeight-marginBottom, marginTop
	grid(&b, x, y)
	for _, l := range lines {
		if len(l.points) == 0 {
			continue
		}
		p.Legend = append(p.Legend, legend{l.name, l.class, true})
		l.draw(&b, x, y)
	}
	if p.Legend == nil {
		return nil
	}
	b.WriteString("</svg>")
	p.SVG = template.HTML(b.String()) //nolint:gosec // every text in it was escaped
	return p
}

func open(b *strings.Builder, title string, height float64) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, html.EscapeString(title))
}

func grid(b *strings.Builder, x, y axis) {
	for _, t := range y.ticks {
		at := y.place(t.at)
		fmt.Fprintf(b, `<path class="grid" d="M%.1f %.1fH%.1f"/>`, x.from, at, x.to)
		text(b, "end", x.from-7, at+4, t.text)
	}
	for _, t := range x.ticks {
		at := x.place(t.at)
		fmt.Fprintf(b, `<path class="grid" d="M%.1f %.1fV%.1f"/>`, at, y.from, y.to)
		text(b, "middle", at, y.from+17, t.text)
	}
	fmt.Fprintf(b, `<path class="axis" d="M%.1f %.1fV%.1fH%.1f"/>`, x.from, y.to, y.from, x.to)
	text(b, "middle", (x.from+x.to)/2, y.from+38, x.label)
	middle := (y.from + y.to) / 2
	fmt.Fprintf(b, `<text class="label" text-anchor="middle" transform="rotate(-90 14 %.1f)" x="14" y="%.1f">%s</text>`,
		middle, middle, html.EscapeString(y.label))
}

func text(b *strings.Builder, anchor string, x, y float64, s string) {
	fmt.Fprintf(b, `<text class="label" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, anchor, x, y, html.EscapeString(s))
}

func (l line) draw(b *strings.Builder, x, y axis) {
	var path strings.Builder
	for i, p := range l.points {
		command := byte('L')
		if i == 0 {
			command = 'M'
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", command, x.place(p.x), y.place(p.y))
	}
	fmt.Fprintf(b, `<path class="line %s" d="%s"><title>%s</title></path>`, l.class, path.String(), html.EscapeString(l.name))
	if !l.dots {
		return
	}
	for _, p := range l.points {
		if p.high > p.low {
			fmt.Fprintf(b, `<path class="spread %s" d="M%.1f %.1fV%.1f"/>`, l.class, x.place(p.x), y.place(p.low), y.place(p.high))
		}
		fmt.Fprintf(b, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="3.4"><title>%s: %s</title></circle>`,
			l.class, x.place(p.x), y.place(p.y), html.EscapeString(l.name), number(p.y))
	}
}

// reach is the lowest and the highest value of the lines, above which there is something.
func reach(lines []line) (low, top float64) {
	low, top = math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for _, p := range l.points {
			low, top = min(low, p.y), max(top, p.y, p.high)
		}
	}
	if top < low {
		return 0, 0
	}
	return low, top
}
