package sitetest

import (
	"bytes"
	"image/png"

	"rebound/internal/problem"
	"rebound/internal/site"
)

// console: looking at what a machine shows changes nothing in it.
func (s *suite) console() {
	c, ok := s.d.(site.Console)
	if !ok || !s.d.Capabilities().Console {
		s.Skip("this site shows no consoles")
	}
	_, err := c.Console(s.ctx, "nobody")
	s.code(err, problem.UnknownMachine)
	def := s.definition("a")
	def.Graphics = "VGA"
	s.must(s.d.Create(s.ctx, def))
	_, err = c.Console(s.ctx, "a")
	s.code(err, problem.MachineNotRunning)
	s.must(s.d.Start(s.ctx, "a", site.StartOptions{Paused: true}))
	v, err := c.Console(s.ctx, "a")
	s.must(err)
	if v.Machine != "a" || v.State != site.Paused || v.At.IsZero() {
		s.Errorf("looked at %s, %s, at %s", v.Machine, v.State, v.At)
	}
	if !v.HasText && v.Picture == nil {
		s.Errorf("there is neither text nor a picture: %s", v.PictureProblem)
	}
	if v.Picture != nil {
		img, err := png.Decode(bytes.NewReader(v.Picture))
		if err != nil || img.Bounds().Dx() != v.Width || img.Bounds().Dy() != v.Height {
			s.Errorf("the picture is no PNG of %d x %d: %v", v.Width, v.Height, err)
		}
	}
	s.state("a", site.Paused)
}
