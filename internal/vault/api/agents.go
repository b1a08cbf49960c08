package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// agentOf authenticates an agent by its certificate.
func (s *Server) agentOf(r *http.Request) (store.Agent, error) {
	name, cert, err := peer(r, identity.RoleAgent)
	if err != nil {
		return store.Agent{}, err
	}
	var a store.Agent
	err = s.view(r.Context(), func(tx *store.Tx) (err error) { a, err = tx.Agent(dr.MachineName(name)); return err })
	if errors.Is(err, store.ErrNotFound) {
		return a, problem.New(problem.NotAuthenticated, "the certificate of agent %s is not valid any more", name)
	}
	if err != nil {
		return a, err
	}
	return a, s.checkCertificate(r.Context(), identity.RoleAgent, name, cert)
}

// agentRegister is what an agent sends after each boot.
func (s *Server) agentRegister(w http.ResponseWriter, r *http.Request) {
	a, err := s.agentOf(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	var reg rest.AgentRegistration
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&reg); err != nil || reg.BootID == "" {
		writeProblem(w, problem.New(problem.InvalidRequest, "an agent registers with its machine's boot id"))
		return
	}
	now := s.Now().UTC()
	err = s.Store.Update(r.Context(), func(tx *store.Tx) (err error) {
		if a, err = tx.Agent(a.Machine); err != nil { // again: it may have been revoked or renewed
			return err
		}
		a.BootID, a.RegisteredAt, a.LastHeartbeat, a.Version = reg.BootID, now, now, reg.Version
		return tx.PutAgent(a)
	})
	if err != nil {
		writeProblem(w, err)
		return
	}
	s.Live.Heartbeat(a.Machine, reg.BootID, now)
	writeJSON(w, struct{}{})
}

// agentHeartbeat is what an agent sends while its machine runs.
func (s *Server) agentHeartbeat(w http.ResponseWriter, r *http.Request) {
	a, err := s.agentOf(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	var beat rest.AgentHeartbeat
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&beat); err != nil || beat.BootID == "" {
		writeProblem(w, problem.New(problem.InvalidRequest, "a heartbeat names the machine's boot id"))
		return
	}
	if beat.BootID != a.BootID {
		writeProblem(w, problem.New(problem.AgentNotInstalled, "the agent of %s has not registered since its boot %s", a.Machine, beat.BootID))
		return
	}
	s.Live.Heartbeat(a.Machine, beat.BootID, s.Now())
	writeJSON(w, struct{}{})
}
