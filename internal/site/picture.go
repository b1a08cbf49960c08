package site

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"strconv"
)

const (
	// maxPixels is the largest display that is taken (4096 x 4096).
	maxPixels = 16 << 20
	// maxPNG is how large a picture may be; larger ones lose every second
	// line and column until they fit.
	maxPNG = 1 << 20
)

// SetPicture makes the view's picture of one as hypervisors write it, a binary
// PPM. It is as large as fits into a megabyte of PNG.
func (v *ConsoleView) SetPicture(ppm io.Reader) error {
	img, err := readPPM(ppm)
	if err != nil {
		return err
	}
	for {
		if v.Picture, err = encodePicture(img); err != nil {
			return err
		}
		v.Width, v.Height = img.Rect.Dx(), img.Rect.Dy()
		if len(v.Picture) <= maxPNG {
			return nil
		}
		img = halved(img)
	}
}

// readPPM reads a picture as QEMU writes it: "P6 WIDTH HEIGHT 255", a line feed,
// and three bytes a pixel.
func readPPM(from io.Reader) (*image.RGBA, error) {
	r := bufio.NewReader(from)
	var kind string
	var w, h, most int
	if _, err := fmt.Fscan(r, &kind, &w, &h, &most); err != nil {
		return nil, fmt.Errorf("read picture: %w", err)
	}
	if kind != "P6" || most != 255 || w < 1 || h < 1 || w > maxPixels || h > maxPixels || w*h > maxPixels {
		return nil, fmt.Errorf("read picture: %s of %d x %d is none that is known", strconv.Quote(kind), w, h)
	}
	if _, err := r.ReadByte(); err != nil {
		return nil, fmt.Errorf("read picture: %w", err)
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	row := make([]byte, 3*w)
	for y := range h {
		if _, err := io.ReadFull(r, row); err != nil {
			return nil, fmt.Errorf("read picture: %w", err)
		}
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{row[3*x], row[3*x+1], row[3*x+2], 255})
		}
	}
	return img, nil
}

func encodePicture(img *image.RGBA) ([]byte, error) {
	var out bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := enc.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("encode picture: %w", err)
	}
	return out.Bytes(), nil
}

// halved is the picture at half of its width and height.
func halved(img *image.RGBA) *image.RGBA {
	w, h := max(1, img.Rect.Dx()/2), max(1, img.Rect.Dy()/2)
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			out.SetRGBA(x, y, img.RGBAAt(2*x, 2*y))
		}
	}
	return out
}
