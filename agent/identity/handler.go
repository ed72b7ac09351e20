// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Services says which services a session may use.
type Services interface {
	// ServicesFor asks the policy of each as if s came from source.
	ServicesFor(s session.Session, source netip.AddrPort) []api.Service
}

// HandlerConfig is what the sign-in API needs.
type HandlerConfig struct {
	Name, Version string // of the agent
	Logins        *Logins
	Machines      *Machines // nil: no tokens are taken
	Services      Services
	Ends          Ender
	Clock         session.Clock
}

// Handler serves the sign-in API and the pages that the browser sees. It belongs behind TLS 1.3
// with client certificates asked for, neither required nor verified (tls.RequestClientCert): the
// handshake proves that the client has the key, and the key is all that counts. It is safe for
// concurrent use.
type Handler struct {
	cfg HandlerConfig
	log *slog.Logger
	mux *http.ServeMux
}

// NewHandler returns the handler of the sign-in API.
func NewHandler(cfg HandlerConfig) *Handler {
	h := &Handler{cfg: cfg, log: cfg.Logins.cfg.Log, mux: http.NewServeMux()}
	h.mux.Handle(api.PathInfo, methods{"GET": h.info})
	h.mux.Handle(api.PathLogin, methods{"POST": h.withKey(h.login)})
	h.mux.Handle(api.PathLoginComplete, methods{"POST": h.withKey(h.complete)})
	h.mux.Handle(api.PathLoginDevice, methods{"POST": h.withKey(h.device)})
	h.mux.Handle(api.PathDevicePoll, methods{"POST": h.withKey(h.pollDevice)})
	if cfg.Machines != nil {
		h.mux.Handle(api.PathLoginToken, methods{"POST": h.withKey(h.token)})
	}
	h.mux.Handle(api.PathSession, methods{"GET": h.withKey(h.session), "DELETE": h.withKey(h.logout)})
	h.mux.Handle(api.PathServices, methods{"GET": h.withKey(h.services)})
	ends := &providerLogouts{logins: cfg.Logins, ends: cfg.Ends}
	h.mux.Handle("POST "+pathBackChannel+"{provider}", http.HandlerFunc(ends.backChannel))
	h.mux.Handle("GET "+pathFrontChannel+"{provider}", http.HandlerFunc(ends.frontChannel))
	h.mux.Handle("/v1/", http.HandlerFunc(notFound))
	h.mux.Handle("GET "+pathStart+"{token}", http.HandlerFunc(h.start))
	h.mux.Handle("GET "+pathCallback, http.HandlerFunc(h.callback))
	h.mux.Handle("GET "+pathCallback+"/{provider}", http.HandlerFunc(h.callback))
	h.mux.Handle("GET "+pathLogout+"{token}", http.HandlerFunc(h.leave))
	h.mux.Handle("GET "+pathSignedOut+"{provider}", http.HandlerFunc(h.left))
	h.mux.Handle("/", http.HandlerFunc(noPage))
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w)
	if r.TLS == nil { // it was wired up wrongly: without TLS there are no client keys
		writeError(w, &api.Error{Code: api.CodeForbidden, Message: "this API is served over TLS only"})
		return
	}
	if err := noCrossOrigin.Check(r); err != nil {
		writeError(w, &api.Error{Code: api.CodeForbidden, Message: err.Error()})
		return
	}
	h.mux.ServeHTTP(w, r)
}

var noCrossOrigin = http.NewCrossOriginProtection()

// withKey hands the client's key to next, or refuses requests without one.
func (h *Handler) withKey(next func(http.ResponseWriter, *http.Request, session.Key) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			writeError(w, &api.Error{Code: api.CodeNoCertificate,
				Message: "this request needs a client certificate",
				Hint:    "use the curfew command, or present the certificate that it keeps"})
			return
		}
		if err := next(w, r, session.KeyOf(r.TLS.PeerCertificates[0])); err != nil {
			h.fail(w, r, err)
		}
	}
}

// fail writes err, and logs it if it is our fault.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		h.log.Error("sign-in request failed", "path", r.URL.Path, "error", err)
		e = &api.Error{Code: api.CodeInternal, Message: "the agent could not do this", Hint: "the agent's log says why"}
	}
	writeError(w, e)
}

func (h *Handler) info(w http.ResponseWriter, _ *http.Request) {
	info := api.AgentInfo{Name: h.cfg.Name, Version: h.cfg.Version, Providers: []api.ProviderInfo{}}
	for _, p := range h.cfg.Logins.cfg.Providers.All() {
		info.Providers = append(info.Providers, api.ProviderInfo{Name: p.Name(), Issuer: p.Issuer(), Ready: p.Ready(), Device: p.config().Device})
	}
	writeJSON(w, http.StatusOK, info)
}

func (h *Handler) login(w http.ResponseWriter, r *http.Request, key session.Key) error {
	var req api.LoginRequest
	if err := readJSON(w, r, maxBody, &req); err != nil {
		return err
	}
	from := sourceOf(r)
	var d *Demand
	if req.Service != "" {
		who, services, err := h.servicesOf(key, from)
		if err == nil {
			d, err = demandFor(req.Service, services, who, h.cfg.Logins.now())
		}
		if err != nil {
			return err
		}
	}
	started, err := h.cfg.Logins.Begin(key, from.Addr(), req, d)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, started)
	return nil
}

func (h *Handler) complete(w http.ResponseWriter, r *http.Request, key session.Key) error {
	var req api.LoginComplete
	if err := readJSON(w, r, maxBody, &req); err != nil {
		return err
	}
	s, err := h.cfg.Logins.Complete(r.Context(), key, req.Code)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, h.describe(s))
	return nil
}

func (h *Handler) device(w http.ResponseWriter, r *http.Request, key session.Key) error {
	var req api.DeviceRequest
	if err := readJSON(w, r, maxBody, &req); err != nil {
		return err
	}
	started, err := h.cfg.Logins.BeginDevice(r.Context(), key, sourceOf(r).Addr(), req)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, started)
	return nil
}

func (h *Handler) pollDevice(w http.ResponseWriter, r *http.Request, key session.Key) error {
	var req api.DevicePoll
	if err := readJSON(w, r, maxBody, &req); err != nil {
		return err
	}
	s, pending, err := h.cfg.Logins.PollDevice(r.Context(), key, req.Login)
	switch {
	case err != nil:
		return err
	case pending != nil:
		writeJSON(w, http.StatusAccepted, pending)
		return nil
	}
	writeJSON(w, http.StatusCreated, h.describe(s))
	return nil
}

func (h *Handler) token(w http.ResponseWriter, r *http.Request, key session.Key) error {
	var req api.LoginToken
	from := sourceOf(r).Addr()
	if err := readJSON(w, r, maxTokenBody, &req); err != nil {
		return h.cfg.Machines.refuse("", key, from, err)
	}
	s, err := h.cfg.Machines.SignIn(r.Context(), key, from, req)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, h.describe(s))
	return nil
}

func (h *Handler) session(w http.ResponseWriter, _ *http.Request, key session.Key) error {
	s, err := h.cfg.Logins.sessionOf(key)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, h.describe(s))
	return nil
}

func (h *Handler) logout(w http.ResponseWriter, r *http.Request, key session.Key) error {
	s, out, err := h.cfg.Logins.Logout(r.Context(), key, r.URL.Query().Get("provider") == "true")
	if err != nil {
		return err
	}
	out.Session = h.describe(s)
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (h *Handler) services(w http.ResponseWriter, r *http.Request, key session.Key) error {
	_, services, err := h.servicesOf(key, sourceOf(r))
	if err != nil {
		return err
	}
	if services == nil {
		services = []api.Service{}
	}
	writeJSON(w, http.StatusOK, services)
	return nil
}

// servicesOf returns whose the live session of a client key is, and which services it may use.
func (h *Handler) servicesOf(key session.Key, from netip.AddrPort) (session.Identity, []api.Service, error) {
	s, err := h.cfg.Logins.sessionOf(key)
	if err != nil {
		return session.Identity{}, nil, err
	}
	if s.Ended != nil {
		ended := &session.EndedError{ID: s.ID, End: *s.Ended}
		return session.Identity{}, nil, &api.Error{Code: api.CodeSessionEnded, Message: ended.Error(), Hint: "run `curfew login` again"}
	}
	return s.Identity, h.cfg.Services.ServicesFor(s, from), nil
}

// sourceOf is where a request comes from. All that cannot be read count as one source, which is in no network.
func sourceOf(r *http.Request) netip.AddrPort {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from
}

func (h *Handler) describe(s session.Session) api.Session {
	out := api.Session{
		ID: s.ID, Identity: s.Identity, Method: s.Method, Created: s.Created, Deadline: s.Deadline,
		IdleTimeout: api.Seconds(s.IdleTimeout), State: api.StateLive, Ended: s.Ended,
	}
	if s.Ended != nil {
		out.State = api.StateEnded
		return out
	}
	out.Left = api.Seconds(max(0, s.EndsAt().Sub(h.cfg.Clock.Boot())))
	return out
}
