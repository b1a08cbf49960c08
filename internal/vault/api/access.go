package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// maxHashing is how many passwords are hashed at a time: each takes 64 MiB.
const maxHashing = 2

func (s *Server) accessRoutes(api huma.API) {
	login := route("POST", "/session", "create-session", "Log in: a session for a browser, in a cookie")
	login.DefaultStatus = 201
	login.Security = []map[string][]string{}
	login.Errors = append(login.Errors, 429)
	add(api, login, s.login)
	add(api, route("GET", "/session", "show-session", "Say who the caller is"), s.whoAmI)
	add(api, route("DELETE", "/session", "delete-session", "Log out"), s.logout)
	s.userRoutes(api)
	s.tokenRoutes(api)
	s.auditRoutes(api)
}

type loginReply struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      rest.Session
}

// wrongLogin is the one answer to every log-in that fails: it does not tell
// whether there is such a user.
func wrongLogin() error {
	return problem.New(problem.NotAuthenticated, "the name or the password is wrong")
}

func (s *Server) login(ctx context.Context, in *struct {
	Body rest.Login
},
) (*loginReply, error) {
	rq := requestOf(ctx)
	if rq.crossOrigin {
		return nil, problem.New(problem.CSRFRefused, "the request comes from another origin")
	}
	user, err := s.checkPassword(ctx, in.Body.Name, in.Body.Password)
	if err != nil {
		return nil, err
	}
	now := s.Now().UTC()
	ses := store.Session{ID: uuid.NewString(), User: user.Name, Channel: string(auth.Portal), From: rq.from, Created: now, Used: now}
	if rq.cli {
		ses.Channel = string(auth.CLI)
	}
	secret := auth.NewSecret("rbs_")
	user.LastLogin = now
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.PutUser(user); err != nil {
			return err
		}
		return tx.InsertSession(ses, secret)
	})
	if err != nil {
		return nil, err
	}
	rq.who = auth.Caller{Name: user.Name, User: user.Name, Role: auth.Role(user.Role), Channel: auth.Channel(ses.Channel), Credential: ses.ID, Session: true}
	about(ctx, "user", user.Name)
	return &loginReply{
		SetCookie: http.Cookie{
			Name: rest.SessionCookie, Value: secret, Path: "/", Secure: true, HttpOnly: true,
			SameSite: http.SameSiteStrictMode, MaxAge: int(auth.SessionLife / time.Second),
		},
		Body: sessionView(ses, user, secret),
	}, nil
}

func sessionView(ses store.Session, u rest.User, secret string) rest.Session {
	ends := ses.Created.Add(auth.SessionLife)
	idle := ses.Used.Add(auth.SessionIdle)
	if ends.Before(idle) {
		idle = ends
	}
	return rest.Session{
		ID: ses.ID, Who: u.Name, User: u.Name, Role: u.Role, Channel: ses.Channel, Created: ses.Created,
		IdleEnds: idle, Expires: ends, CSRF: auth.CSRFOf(secret),
	}
}

// checkPassword finds the user of a name and password. Failures are counted,
// and it takes as long for a name that nobody has.
func (s *Server) checkPassword(ctx context.Context, name, password string) (rest.User, error) {
	rq := requestOf(ctx)
	guess := auth.GuessOf("password", name, rq.from)
	if wait := s.limits.Begin(guess); wait > 0 {
		return rest.User{}, tooMany(wait, "log-ins from %s or for this name have failed again and again", rq.from)
	}
	var user rest.User
	var hash string
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		if user, err = tx.User(name); err != nil {
			return err
		}
		hash, err = tx.PasswordHash(name)
		return err
	})
	known := err == nil
	if errors.Is(err, store.ErrNotFound) {
		hash = s.nobody()
	} else if err != nil {
		return rest.User{}, err
	} else {
		about(ctx, "user", name)
	}
	right, stale, err := s.compare(ctx, hash, password)
	if err != nil {
		return rest.User{}, err
	}
	if !right || !known || user.Disabled {
		return rest.User{}, wrongLogin()
	}
	s.limits.Right(guess)
	if stale {
		if fresh, err := s.hash(ctx, password); err == nil {
			s.used(ctx, func(tx *store.Tx) error { return tx.SetPassword(name, fresh) })
		}
	}
	return user, nil
}

func (s *Server) compare(ctx context.Context, hash, password string) (right, stale bool, err error) {
	if err := s.hashing(ctx); err != nil {
		return false, false, err
	}
	defer func() { <-s.hashers }()
	return auth.ComparePassword(hash, password)
}

func (s *Server) hash(ctx context.Context, password string) (string, error) {
	if err := s.hashing(ctx); err != nil {
		return "", err
	}
	defer func() { <-s.hashers }()
	return auth.HashPassword(password), nil
}

func (s *Server) hashing(ctx context.Context) error {
	select {
	case s.hashers <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) whoAmI(ctx context.Context, in *struct {
	Cookie http.Cookie `cookie:"__Host-rebound-session"`
},
) (*reply[rest.Session], error) {
	who := callerOf(ctx)
	out := rest.Session{ID: who.Credential, Who: who.Name, User: who.User, Role: string(who.Role), Channel: string(who.Channel)}
	err := s.view(ctx, func(tx *store.Tx) error {
		if !who.Session {
			tok, err := tx.Token(who.Credential)
			out.Created, out.Expires = tok.Created, tok.Expires
			return err
		}
		ses, err := tx.SessionOf(in.Cookie.Value)
		if err != nil {
			return err
		}
		user, err := tx.User(ses.User)
		out = sessionView(ses, user, in.Cookie.Value)
		return err
	})
	return &reply[rest.Session]{out}, notFound(err, problem.NotAuthenticated, "the session has ended; log in again")
}

type logoutReply struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
}

func (s *Server) logout(ctx context.Context, _ *struct{}) (*logoutReply, error) {
	who := callerOf(ctx)
	if !who.Session {
		return nil, problem.New(problem.InvalidRequest, "a token is no session; delete the token instead")
	}
	about(ctx, "user", who.User)
	err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteSession(who.Credential) })
	return &logoutReply{http.Cookie{Name: rest.SessionCookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1}}, err
}

// UserIn is a user in the path; huma reads embedded structs only when exported.
type UserIn struct {
	User string `path:"user"`
}

func unknownUser(err error, name string) error {
	return notFound(err, problem.UnknownUser, "there is no user %q", name)
}

func (s *Server) userRoutes(api huma.API) {
	add(api, route("GET", "/users", "list-users", "List the users"), func(ctx context.Context, in *ListIn) (*listReply[rest.User], error) {
		var all []rest.User
		if err := s.view(ctx, func(tx *store.Tx) (err error) { all, err = tx.Users(); return err }); err != nil {
			return nil, err
		}
		return pageOf(ctx, *in, all, func(u rest.User) string { return u.Name }, order[rest.User]{
			"name": func(u rest.User) any { return u.Name }, "role": func(u rest.User) any { return u.Role },
			"lastLogin": func(u rest.User) any { return u.LastLogin },
		})
	})
	add(api, route("GET", "/users/{user}", "show-user", "Show a user"), func(ctx context.Context, in *UserIn) (*reply[rest.User], error) {
		if err := permitOwn(ctx, in.User); err != nil {
			return nil, err
		}
		var u rest.User
		err := s.view(ctx, func(tx *store.Tx) (err error) { u, err = tx.User(in.User); return err })
		return &reply[rest.User]{u}, unknownUser(err, in.User)
	})
	create := route("POST", "/users", "create-user", "Make a user")
	create.DefaultStatus = 201
	add(api, create, s.createUser)
	add(api, route("PATCH", "/users/{user}", "update-user", "Change a user's role; disable or enable a user"), s.updateUser)
	add(api, route("DELETE", "/users/{user}", "delete-user", "Remove a user with all sessions and tokens"), s.deleteUser)
	password := route("POST", "/users/{user}/password", "change-password", "Set a user's password")
	password.DefaultStatus = 204
	password.Errors = append(password.Errors, 429)
	add(api, password, s.changePassword)
}

func (s *Server) createUser(ctx context.Context, in *struct{ Body rest.NewUser }) (*reply[rest.User], error) {
	b := in.Body
	if err := dr.ValidName(b.Name); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	if err := auth.CheckPassword(b.Name, b.Password); err != nil {
		return nil, err
	}
	hash, err := s.hash(ctx, b.Password)
	if err != nil {
		return nil, err
	}
	now := s.Now().UTC()
	u := rest.User{Name: b.Name, Role: b.Role, Created: now, PasswordChanged: now}
	about(ctx, "user", u.Name)
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		if err := nameFree(tx, u.Name); err != nil {
			return err
		}
		return tx.InsertUser(u, hash)
	})
	return &reply[rest.User]{u}, err
}

// nameFree refuses a name that a user or a service token has: jobs and the
// audit log know who did something by that name.
func nameFree(tx *store.Tx, name string) error {
	_, err := tx.User(name)
	if err == nil {
		return problem.New(problem.NameTaken, "there is a user %q", name)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	toks, err := tx.Tokens()
	for _, t := range toks {
		if t.User == "" && t.Name == name {
			return problem.New(problem.NameTaken, "there is a service token %q", name)
		}
	}
	return err
}

func (s *Server) updateUser(ctx context.Context, in *struct {
	UserIn
	Body rest.UserChange
},
) (*reply[rest.User], error) {
	var u rest.User
	err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if u, err = tx.User(in.User); err != nil {
			return unknownUser(err, in.User)
		}
		was := isOwner(u)
		if in.Body.Role != nil {
			u.Role = *in.Body.Role
		}
		if in.Body.Disabled != nil {
			u.Disabled = *in.Body.Disabled
		}
		if err := tx.PutUser(u); err != nil {
			return err
		}
		if u.Disabled {
			if err := tx.DeleteSessions(u.Name, ""); err != nil {
				return err
			}
		}
		if was && !isOwner(u) {
			return ownerLeft(tx, false)
		}
		return nil
	})
	return &reply[rest.User]{u}, err
}

func (s *Server) deleteUser(ctx context.Context, in *UserIn) (*struct{}, error) {
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		u, err := tx.User(in.User)
		if err != nil {
			return unknownUser(err, in.User)
		}
		if err := tx.DeleteUser(u.Name); err != nil || !isOwner(u) {
			return err
		}
		return ownerLeft(tx, false)
	})
}

func isOwner(u rest.User) bool { return u.Role == string(auth.Owner) && !u.Disabled }

// ownerLeft refuses a transaction after which nobody could decide any more who
// may do what. Only a user makes up for a user: a token is no person. Before
// there are users, the first token is what must stay.
func ownerLeft(tx *store.Tx, orToken bool) error {
	users, err := tx.Users()
	if err != nil || slices.ContainsFunc(users, isOwner) {
		return err
	}
	toks, err := tx.Tokens()
	if err != nil || orToken && slices.ContainsFunc(toks, isOwnerToken) {
		return err
	}
	return problem.New(problem.LastOwner, "no owner would be left")
}

func isOwnerToken(t rest.Token) bool {
	return t.User == "" && t.Role == string(auth.Owner) && t.Expires.IsZero()
}

func (s *Server) changePassword(ctx context.Context, in *struct {
	UserIn
	Body rest.PasswordChange
},
) (*struct{}, error) {
	if err := permitOwn(ctx, in.User); err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	if who.User == in.User {
		// Also of owners: a session that was left open must not do.
		if _, err := s.checkPassword(ctx, in.User, in.Body.Current); err != nil {
			return nil, err
		}
	}
	if err := auth.CheckPassword(in.User, in.Body.New); err != nil {
		return nil, err
	}
	hash, err := s.hash(ctx, in.Body.New)
	if err != nil {
		return nil, err
	}
	keep := ""
	if who.User == in.User && who.Session {
		keep = who.Credential
	}
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		u, err := tx.User(in.User)
		if err != nil {
			return unknownUser(err, in.User)
		}
		u.PasswordChanged = s.Now().UTC()
		return errors.Join(tx.PutUser(u), tx.SetPassword(u.Name, hash), tx.DeleteSessions(u.Name, keep))
	})
}
