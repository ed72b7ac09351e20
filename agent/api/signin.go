// SPDX-License-Identifier: Apache-2.0

package api

import (
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Paths of the sign-in API, which the agent serves to everyone on its TLS port. The client is
// known by the certificate it presents in the handshake and by nothing else.
const (
	PathInfo          = "/v1/info"              // GET: AgentInfo; needs no certificate
	PathLogin         = "/v1/login"             // POST LoginRequest: LoginStarted
	PathLoginComplete = "/v1/login/complete"    // POST LoginComplete: Session
	PathLoginDevice   = "/v1/login/device"      // POST DeviceRequest: DeviceStarted
	PathDevicePoll    = "/v1/login/device/poll" // POST DevicePoll: Session (201), or DevicePending (202)
	PathLoginToken    = "/v1/login/token"       // POST LoginToken: Session
	PathSession       = "/v1/session"           // GET: Session; DELETE (?provider=true): LoggedOut
	PathServices      = "/v1/services"          // GET: []Service
)

// Codes of errors that only the sign-in API makes.
const (
	CodeNoCertificate   = "no-client-certificate" // the request came without a client certificate
	CodeUnknownKey      = "unknown-key"           // no session was ever known for this client key
	CodeSessionEnded    = "session-ended"         // the session of this client key is over
	CodeLoginInvalid    = "login-invalid"         // the sign-in is unknown, expired, used or another's
	CodeChooseProvider  = "choose-provider"       // several providers are configured, or not this one
	CodeStepUp          = "step-up-required"      // a service asks for a stronger or fresher sign-in
	CodeProviderFailed  = "provider-failed"       // the provider refused, or its answer was refused
	CodeTokenRefused    = "token-refused"         // a machine's token does not do here
	CodeTokenUsed       = "token-used"            // a machine's token was used with another client key, or before its session was ended
	CodeChooseMachine   = "choose-machine"        // several machines are configured for the token's issuer, or none
	CodeMethod          = "method-not-allowed"    // the path exists, the method does not
	CodeUnsupportedType = "unsupported-type"      // the body is not JSON
)

// AgentInfo says who an agent is and where its users can sign in.
type AgentInfo struct {
	Name      string         `json:"name"`
	Version   string         `json:"version"`
	Providers []ProviderInfo `json:"providers"`
}

// ProviderInfo describes a configured OpenID provider.
type ProviderInfo struct {
	Name   string `json:"name"`
	Issuer string `json:"issuer"`
	Ready  bool   `json:"ready"`  // its discovery document has been read
	Device bool   `json:"device"` // sign-ins by a code are taken (RFC 8628)
}

// LoginRequest starts a sign-in for the client key of the connection it comes on.
type LoginRequest struct {
	Provider string `json:"provider,omitempty"` // may be empty if only one is configured
	// Redirect is where the browser takes the one-time code: http://127.0.0.1:PORT/PATH or
	// http://[::1]:PORT/PATH (RFC 8252, section 7.3).
	Redirect string `json:"redirect"`
	State    string `json:"state"` // given back to Redirect; the client's own protection
	// BindAddress asks that the address this request comes from be admitted to plain listeners for
	// the life of the session. An agent refuses it unless it is configured to allow it.
	BindAddress bool `json:"bind_address,omitempty"`
	// Service names a service that the session of this client key may use but for what it requires of the sign-in: that is
	// asked for at the provider, and the new session takes the place of the old.
	Service string `json:"service,omitempty"`
}

// LoginStarted says where the user's browser has to go.
type LoginStarted struct {
	URL       string  `json:"url"`
	Provider  string  `json:"provider"`
	ExpiresIn Seconds `json:"expires_in_seconds"`
}

// LoginComplete trades the one-time code for a session. It must come on a connection with the
// key that started the sign-in.
type LoginComplete struct {
	Code string `json:"code"`
}

// LoginToken trades a token of an issuer that the agent is configured to trust for a session of the
// connection's client key. The same key may present its token again, or a newer one: the new session takes over
// the connections of the old.
type LoginToken struct {
	Token   string `json:"token"`             // a JWT in compact form
	Machine string `json:"machine,omitempty"` // the configured name; empty: found by the token's issuer
}

// Session is what a client may know about its own session.
type Session struct {
	ID       session.ID       `json:"id"`
	Identity session.Identity `json:"identity"`
	Method   string           `json:"method"`
	Created  time.Time        `json:"created"`
	Deadline time.Time        `json:"deadline"` // the absolute end
	// Left is the time until the session ends if nothing happens: the earlier of the absolute end
	// and of the idle lease. It is right even where the client's clock is wrong.
	Left        Seconds      `json:"left_seconds"`
	IdleTimeout Seconds      `json:"idle_timeout_seconds,omitzero"`
	State       string       `json:"state"`           // StateLive or StateEnded
	Ended       *session.End `json:"ended,omitempty"` // why, if it has
}

// LoggedOut is the answer to a sign-out.
type LoggedOut struct {
	Session Session `json:"session"`
	// Revoked is set when the provider has confirmed that its tokens are revoked (RFC 7009), or
	// when the agent held none any more. If it is false the agent goes on trying, unless Irrevocable is set: the provider
	// cannot revoke them, and the agent has wiped them.
	Revoked     bool `json:"revoked"`
	Irrevocable bool `json:"irrevocable,omitempty"`
	// Provider is the page, good once and for minutes, at which the user's browser signs out at the provider, too, if that
	// was asked for; empty if there is none.
	Provider string `json:"provider,omitempty"`
}

// Service is a service that a session may use.
type Service struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol,omitempty"` // "tcp" or "postgres"
	// Address is the host:port to connect to, with Name as SNI. An empty host means the agent's.
	Address string `json:"address,omitempty"`
	// Require is what it asks of how the user was authenticated, beyond policy; nil: nothing. Missing says, for people,
	// what the session lacks of that: connections are refused until the user has signed in with LoginRequest.Service.
	Require *Require `json:"require,omitempty"`
	Missing string   `json:"missing,omitempty"`
}

// Require is a session.Requirement.
type Require struct {
	ACR    []string `json:"acr,omitempty"` // one of these
	AMR    []string `json:"amr,omitempty"` // all of these
	MaxAge Seconds  `json:"max_age_seconds,omitzero"`
}

// RequireOf returns r for the wire, nil if it asks for nothing.
func RequireOf(r session.Requirement) *Require {
	if r.Empty() {
		return nil
	}
	return &Require{ACR: r.ACR, AMR: r.AMR, MaxAge: Seconds(r.MaxAge)}
}

// Requirement returns what r stands for, which is nothing if it is nil.
func (r *Require) Requirement() session.Requirement {
	if r == nil {
		return session.Requirement{}
	}
	return session.Requirement{ACR: r.ACR, AMR: r.AMR, MaxAge: r.MaxAge.Duration()}
}
