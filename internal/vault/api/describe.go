package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
)

func securitySchemes() map[string]*huma.SecurityScheme {
	return map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "An API token, a user's or a service token"},
		"session": {
			Type: "apiKey", In: "cookie", Name: rest.SessionCookie,
			Description: "The cookie of a log-in. Requests that change something repeat the session's csrf in the header " + rest.CSRFHeader,
		},
	}
}

// describe completes the API's description: what every route has alike, who may
// call it, and an example for everything that is sent or answered.
func describe(doc *huma.OpenAPI) {
	doc.Info.Description = "Errors are problem documents (RFC 9457) with a stable code; docs/errors.md lists them."
	ex := examples{schemas: doc.Components.Schemas, problems: problem.All(), words: exampleWords()}
	needs := auth.Routes()
	for _, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPut: item.Put, http.MethodPost: item.Post,
			http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
		} {
			if op != nil {
				headersOf(method, op)
				roleOf(op, needs[op.OperationID])
				ex.operation(op)
			}
		}
	}
}

// roleOf writes into the description what the table says.
func roleOf(op *huma.Operation, need auth.Need) {
	text := fmt.Sprintf("Needs the role %s.", need.Role)
	switch {
	case need.Public:
		text = "Needs no role."
	case need.PerOperation:
		text = fmt.Sprintf("Needs the role %s at least; which one depends on the operation.", need.Role)
	case need.OwnOnly:
		text = fmt.Sprintf("Needs the role %s for what is one's own, else %s.", need.Role, auth.Owner)
	}
	op.Description = strings.TrimSpace(op.Description + " " + text)
}

// headersOf adds the headers that the server takes on every route of a method.
func headersOf(method string, op *huma.Operation) {
	str := &huma.Schema{Type: huma.TypeString}
	header := func(name, what string) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "header", Description: what, Schema: str})
	}
	fail := func(status int, what string) {
		key := strconv.Itoa(status)
		if op.Responses[key] == nil {
			op.Responses[key] = &huma.Response{Description: what, Content: op.Responses["400"].Content}
		}
	}
	if method == http.MethodGet {
		header("If-None-Match", "the ETag of what the caller has: 304 when it is the same still")
		op.Responses["304"] = &huma.Response{Description: "What the caller has is the same still"}
		return
	}
	header(idempotencyHeader, "what tells a repetition of this request from a new one: up to 255 visible ASCII characters, remembered for 24 hours")
	fail(http.StatusUnprocessableEntity, "The idempotency key belongs to another request")
	if method != http.MethodPost {
		header("If-Match", "do it only if the object's ETag is one of these")
		fail(http.StatusPreconditionFailed, "The object has changed since it was read")
	}
}

// examples makes an example of every schema, so that none is out of date.
type examples struct {
	schemas  huma.Registry
	problems []problem.Problem
	words    map[string]string
}

func (e examples) operation(op *huma.Operation) {
	for _, p := range op.Parameters {
		if p.Example == nil && p.Schema != nil {
			p.Example = e.value(p.Schema, p.Name, 0)
		}
	}
	if op.RequestBody != nil {
		for _, media := range op.RequestBody.Content {
			e.fill(media)
		}
	}
	for status, r := range op.Responses {
		for kind, media := range r.Content {
			if n, err := strconv.Atoi(status); err == nil && n >= http.StatusBadRequest {
				media = &huma.MediaType{Schema: media.Schema, Example: e.problem(n)}
				r.Content = map[string]*huma.MediaType{kind: media}
			}
			if s := media.Schema; status == "202" && s != nil && s.Ref == "" && s.Type == "" {
				media.Schema = &huma.Schema{Ref: "#/components/schemas/Job"}
			}
			e.fill(media)
		}
	}
}

// problem is the first registered problem of a status.
func (e examples) problem(status int) any {
	for _, p := range e.problems {
		if p.HTTPStatus() == status {
			p.Detail = "what it is in this case"
			return documentOf(&p)
		}
	}
	return documentOf(problem.New(problem.InternalError, "what it is in this case"))
}

func (e examples) fill(media *huma.MediaType) {
	if media.Example == nil && len(media.Examples) == 0 && media.Schema != nil {
		media.Example = e.value(media.Schema, "", 0)
	}
}

// maxDepth bounds examples of things that hold their like.
const maxDepth = 6

func (e examples) value(s *huma.Schema, name string, depth int) any {
	if s.Ref != "" {
		s = e.schemas.SchemaFromRef(s.Ref)
	}
	switch {
	case s == nil || depth > maxDepth:
		return nil
	case len(s.Examples) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.OneOf) > 0:
		return e.value(s.OneOf[0], name, depth)
	case len(s.AnyOf) > 0:
		return e.value(s.AnyOf[0], name, depth)
	}
	switch s.Type {
	case huma.TypeObject:
		return e.object(s, depth)
	case huma.TypeArray:
		if v := e.value(s.Items, strings.TrimSuffix(name, "s"), depth+1); v != nil {
			return []any{v}
		}
		return []any{}
	case huma.TypeString:
		return e.text(s, name)
	case huma.TypeInteger, huma.TypeNumber:
		n := 1.0
		if s.Minimum != nil {
			n = max(n, *s.Minimum)
		}
		return n
	case huma.TypeBoolean:
		return false
	default:
		return nil
	}
}

func (e examples) object(s *huma.Schema, depth int) any {
	out := map[string]any{}
	for name, p := range s.Properties {
		v := e.value(p, name, depth+1)
		if v == nil && !slices.Contains(s.Required, name) {
			continue
		}
		out[name] = v
	}
	return out
}

// exampleWords are what could stand in a field of a name.
func exampleWords() map[string]string {
	return map[string]string{
		"id": "app", "group": "app", "item": "vm1", "machine": "vm1", "name": "vm1", "plan": "payroll", "policy": "default",
		"site": "home", "homeSite": "home", "activeSite": "home", "to": "cloud", "recoverySite": "cloud", "gateway": "gw-home",
		"job": "0b5c5f0e-7f0a-4c55-9c1f-2b6a8f6f4f11", "runningJob": "0b5c5f0e-7f0a-4c55-9c1f-2b6a8f6f4f11", "user": "alice", "who": "alice", "by": "alice",
		"password": "correct horse battery staple", "new": "correct horse battery staple", "current": "an older pass phrase", "secret": "rbt_EXAMPLE",
		"point": "latest", "position": "g1.e2.n345", "operation": "failover", "network": "lan", "url": "https://hooks.example/rebound",
		"If-None-Match": `"wJ8f2xkQ1v5cXJ9mS3rZ0aPq"`, "If-Match": `"wJ8f2xkQ1v5cXJ9mS3rZ0aPq"`, idempotencyHeader: "7f6f8b0e-2c1d-4e3a",
	}
}

// text is a string as it could stand in a field of a name.
func (e examples) text(s *huma.Schema, name string) string {
	switch s.Format {
	case "date-time", "date-time-http":
		return "2026-03-01T03:00:00Z"
	case "uuid":
		return e.words["job"]
	}
	if w, ok := e.words[name]; ok {
		return w
	}
	if s.MinLength != nil && *s.MinLength > len("text") {
		return strings.Repeat("x", *s.MinLength)
	}
	return "text"
}
