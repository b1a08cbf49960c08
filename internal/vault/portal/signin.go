package portal

import (
	"errors"
	"net/http"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// signInRoutes registers the way in and the way out.
func (p *Portal) signInRoutes() {
	p.open("GET "+signInPath, func(rq *Request) error { return rq.signInPage(nil) })
	p.open("POST "+signInPath, p.signIn)
	p.page("POST /sign-out", p.signOut)
}

// signInForm keeps what was typed, but for the password.
type signInForm struct{ Name, Next string }

func (rq *Request) signInPage(failed *problem.Problem) error {
	return rq.Render("sign-in", Page{Title: "Sign in", Problem: failed, Data: signInForm{Name: rq.Field("name"), Next: rq.Next()}})
}

func (p *Portal) signIn(rq *Request) error {
	_, cookies, err := rq.API.OpenSession(rq.Context(), rest.Login{Name: rq.Field("name"), Password: rq.PostForm.Get("password")})
	if refused, ok := errors.AsType[*problem.Problem](err); ok {
		return rq.signInPage(refused)
	}
	if err != nil {
		return err
	}
	for _, c := range cookies {
		http.SetCookie(rq.W, c)
	}
	return rq.See(rq.Next())
}

func (p *Portal) signOut(rq *Request) error {
	if err := rq.API.CloseSession(rq.Context()); err != nil {
		return err
	}
	http.SetCookie(rq.W, &http.Cookie{Name: rest.SessionCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return rq.See(signInPath)
}
