package api

import "github.com/danielgtaylor/huma/v2"

func (s *Server) adminRoutes(api huma.API) {
	add(api, route("GET", "/status", "status", "Show the vault's overview"), s.status)
	s.policyRoutes(api)
}
