package portal

import (
	"strconv"

	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
)

// peopleRoutes registers users, tokens, and a person's own account.
func (p *Portal) peopleRoutes() {
	p.page("GET /users", func(rq *Request) error { return rq.usersPage(nil) })
	p.page("POST /users", p.createUser)
	p.page("POST /users/{name}/change", p.changeUser)
	p.page("POST /users/{name}/delete", p.deleteUser)
	p.page("GET /tokens", func(rq *Request) error { return rq.tokensPage(nil, nil) })
	p.page("POST /tokens", p.createToken)
	p.page("POST /tokens/{id}/delete", p.deleteToken)
	p.page("GET /account", func(rq *Request) error { return rq.accountPage(nil) })
	p.page("POST /account", p.changePassword)
}

func (rq *Request) usersPage(failed *problem.Problem) error {
	users, err := rq.API.Users(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("users", Page{
		Title: "Users", Nav: "/users", Problem: failed,
		Data: map[string]any{"Users": users, "Roles": auth.Roles(), "Name": rq.PostForm.Get("name"), "Role": rq.PostForm.Get("role")},
	})
}

func (p *Portal) createUser(rq *Request) error {
	_, err := rq.API.CreateUser(rq.Context(), rest.NewUser{Name: rq.Field("name"), Role: rq.Field("role"), Password: rq.FormValue("password")})
	if err != nil {
		return again(err, rq.usersPage)
	}
	return rq.See("/users")
}

func (p *Portal) changeUser(rq *Request) error {
	role, disabled := rq.Field("role"), rq.Field("disabled") != ""
	if _, err := rq.API.UpdateUser(rq.Context(), rq.PathValue("name"), rest.UserChange{Role: &role, Disabled: &disabled}); err != nil {
		return again(err, rq.usersPage)
	}
	return rq.See("/users")
}

func (p *Portal) deleteUser(rq *Request) error {
	name := rq.PathValue("name")
	if rq.Field("confirm") != name {
		return rq.usersPage(problem.New(problem.NotConfirmed, "to delete the user, type %q", name))
	}
	if err := rq.API.DeleteUser(rq.Context(), name); err != nil {
		return again(err, rq.usersPage)
	}
	return rq.See("/users")
}

// tokensPage shows the tokens and, once, the secret of a new one.
func (rq *Request) tokensPage(failed *problem.Problem, made *rest.TokenSecret) error {
	tokens, err := rq.API.Tokens(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("tokens", Page{
		Title: "Tokens", Nav: "/tokens", Problem: failed,
		Data: map[string]any{"Tokens": tokens, "Roles": auth.Roles(), "Made": made, "Name": rq.PostForm.Get("name")},
	})
}

func (p *Portal) createToken(rq *Request) error {
	fail := func(failed *problem.Problem) error { return rq.tokensPage(failed, nil) }
	days, err := strconv.Atoi(rq.Field("days"))
	if err != nil {
		return fail(problem.New(problem.InvalidRequest, "%q is no number of days", rq.Field("days")))
	}
	made, err := rq.API.CreateToken(rq.Context(), rest.NewToken{Name: rq.Field("name"), Role: rq.Field("role"), Days: days, User: rq.Who.User})
	if err != nil {
		return again(err, fail)
	}
	return rq.tokensPage(nil, &made) // no redirect: the secret is shown once
}

func (p *Portal) deleteToken(rq *Request) error {
	if err := rq.API.DeleteToken(rq.Context(), rq.PathValue("id")); err != nil {
		return again(err, func(failed *problem.Problem) error { return rq.tokensPage(failed, nil) })
	}
	return rq.See("/tokens")
}

func (rq *Request) accountPage(failed *problem.Problem) error {
	return rq.Render("account", Page{Title: "Account", Problem: failed, Data: map[string]any{"Changed": rq.URL.Query().Get("changed") != ""}})
}

func (p *Portal) changePassword(rq *Request) error {
	now := rq.FormValue("new")
	if now != rq.FormValue("again") {
		return rq.accountPage(problem.New(problem.InvalidRequest, "the two new passwords are not the same"))
	}
	err := rq.API.ChangePassword(rq.Context(), rq.Who.User, rest.PasswordChange{Current: rq.FormValue("current"), New: now})
	if err != nil {
		return again(err, rq.accountPage)
	}
	return rq.See("/account?changed=1")
}
