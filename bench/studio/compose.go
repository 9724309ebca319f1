package studio

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
)

// The logo's place: as large as fits into this share of the photo's sides, so far from the bottom right corner.
const (
	logoShare  = 0.24
	logoMargin = 0.035
)

// over draws the product, and the shadows around it, onto a new background of the same size.
func (c *cutout) over(dst *image.RGBA) {
	for i, a := range c.alpha {
		d := dst.Pix[4*i : 4*i+3 : 4*i+3]
		p := c.pix[4*i : 4*i+3 : 4*i+3]
		paper := int(c.shade[i]) * (255 - int(a)) // of 255²
		for k := range 3 {
			d[k] = uint8((int(d[k])*paper + int(p[k])*int(a)*255 + 255*255/2) / (255 * 255))
		}
	}
}

// transparent is the product alone; its shadows are black with the strength they had.
func (c *cutout) transparent() *image.NRGBA {
	dst := image.NewNRGBA(image.Rect(0, 0, c.w, c.h))
	for i, a := range c.alpha {
		shadow := (255 - int(a)) * (255 - int(c.shade[i])) / 255
		cover := int(a) + shadow
		if cover == 0 {
			continue
		}
		for k := range 3 {
			dst.Pix[4*i+k] = uint8(int(c.pix[4*i+k]) * int(a) / cover)
		}
		dst.Pix[4*i+3] = uint8(cover)
	}
	return dst
}

// cover scales src so that it fills dst, and cuts off what is too wide or too high, evenly.
func cover(dst, src *image.RGBA) {
	size, from := dst.Rect.Size(), src.Rect
	if w := from.Dy() * size.X / size.Y; w < from.Dx() { // too wide
		from.Min.X += (from.Dx() - w) / 2
		from.Max.X = from.Min.X + max(w, 1)
	} else {
		h := from.Dx() * size.Y / size.X
		from.Min.Y += (from.Dy() - h) / 2
		from.Max.Y = from.Min.Y + max(h, 1)
	}
	fill(dst, color.RGBA{R: 255, G: 255, B: 255, A: 255}) // behind a background that is itself transparent
	scaler(from, dst.Rect).Scale(dst, dst.Rect, src, from, draw.Over, nil)
}

// placeLogo draws the logo at the bottom right, in its own proportions.
func placeLogo(dst, logo *image.RGBA) {
	size := dst.Rect.Size()
	box := int(logoShare * float64(min(size.X, size.Y)) * 1.25)
	w, h := box, max(1, logo.Rect.Dy()*box/logo.Rect.Dx())
	if tallest := int(logoShare * float64(size.Y)); h > tallest {
		w, h = max(1, logo.Rect.Dx()*tallest/logo.Rect.Dy()), tallest
	}
	margin := int(logoMargin * float64(min(size.X, size.Y)))
	at := image.Rect(size.X-margin-w, size.Y-margin-h, size.X-margin, size.Y-margin)
	scaler(logo.Rect, at).Scale(dst, at, logo, logo.Rect, draw.Over, nil)
}

// scaler is Catmull-Rom, unless much is thrown away: then that would take longer than all other work.
func scaler(from, to image.Rectangle) draw.Scaler {
	if from.Dx()*from.Dy() > 16*to.Dx()*to.Dy() {
		return draw.ApproxBiLinear
	}
	return draw.CatmullRom
}

func fill(dst *image.RGBA, c color.RGBA) {
	draw.Draw(dst, dst.Rect, image.NewUniform(c), image.Point{}, draw.Src)
}
