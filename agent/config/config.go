// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"
)

// Config is the agent's configuration. The tags are its grammar: yaml names the key, required
// forbids leaving it out, oneof lists what may be said and min is the smallest value. Zero
// durations mean "none" where no min forbids them. Everything is explained in
// docs/configuration.md.
type Config struct {
	// Name names this node in logs and in the cluster. Default: the host's name.
	Name string `yaml:"name" required:"true"`
	// Listen has the gateway's addresses: the sign-in API, and services by SNI.
	Listen []netip.AddrPort `yaml:"listen" required:"true"`
	// URL is how browsers and clients reach the gateway. Default: https, Name, the first port of Listen.
	URL string `yaml:"url" required:"true"`
	TLS TLS    `yaml:"tls"`
	// State is the directory of what must survive a restart, Run of what must not, and is root's; User is
	// who the proxy process runs as. Run is not in State: that is User's, and is backed up.
	State         string `yaml:"state" required:"true"`
	Run           string `yaml:"run" required:"true"`
	User          string `yaml:"user" required:"true"`
	ControlSocket string `yaml:"control_socket" required:"true"` // default: control.sock in Run
	// Metrics is the address of a Prometheus listener; the zero value means none. It must be a
	// loopback address unless MetricsPublic is set.
	Metrics       netip.AddrPort `yaml:"metrics"`
	MetricsPublic bool           `yaml:"metrics_public"`
	Enforcement   string         `yaml:"enforcement" oneof:"kernel|userspace"`
	Sessions      Sessions       `yaml:"sessions"`
	Limits        Limits         `yaml:"limits"`
	BindAddress   BindAddress    `yaml:"bind_address"`
	Cluster       Cluster        `yaml:"cluster"`
	Providers     []Provider     `yaml:"providers"`
	Machines      []Machine      `yaml:"machines"`
	Signals       []Signal       `yaml:"signals"`
	SCIM          []SCIM         `yaml:"scim"`
	Webhooks      []Webhook      `yaml:"webhooks"`
	Services      []Service      `yaml:"services" required:"true"`
}

// What the agent can enforce with.
const (
	EnforceKernel    = "kernel"
	EnforceUserspace = "userspace"
)

// TLS is the gateway's own certificate. Empty: one is made and kept in the state directory.
type TLS struct {
	Certificate string `yaml:"certificate"` // file, PEM, with intermediates
	Key         string `yaml:"key"`         // file, PEM
}

// Sessions bounds sessions; services may be stricter.
type Sessions struct {
	AbsoluteTimeout time.Duration `yaml:"absolute_timeout" min:"1s"`
	IdleTimeout     time.Duration `yaml:"idle_timeout"`                    // 0: idleness does not end a session
	IdleCounts      string        `yaml:"idle_counts" oneof:"client|both"` // whose bytes are activity
	Max             int           `yaml:"max" min:"1"`                     // live sessions on this node
	Connections     int           `yaml:"connections" min:"1"`             // live connections of one session
}

// Whose bytes count as activity.
const (
	IdleCountsClient = "client"
	IdleCountsBoth   = "both"
)

// Limits bounds what strangers can use up.
type Limits struct {
	HandshakeTimeout         time.Duration `yaml:"handshake_timeout" min:"100ms"`
	Unauthenticated          int           `yaml:"unauthenticated" min:"1"`            // handshakes under way
	UnauthenticatedPerSource int           `yaml:"unauthenticated_per_source" min:"1"` // of them from one address
	DrainTimeout             time.Duration `yaml:"drain_timeout"`                      // for connections to end when the agent stops
}

// BindAddress lets sessions admit a source address to plain listeners, for programs that cannot
// speak TLS.
type BindAddress struct {
	Enabled     bool `yaml:"enabled"`
	AllowPublic bool `yaml:"allow_public"` // also addresses that are neither private nor loopback
}

// Cluster makes this node one of several that share their sessions.
type Cluster struct {
	// Listen is the UDP address that nodes talk to; the zero value means that there is no cluster.
	Listen netip.AddrPort `yaml:"listen"`
	// Advertise is the host:port at which the others reach Listen. Default: Name, or Listen if it is
	// the address of one interface, with Listen's port.
	Advertise string `yaml:"advertise"`
	// Seeds are nodes to look for beside those that are known: host:port, where a name stands for all
	// its addresses, or srv:_service._udp.domain.
	Seeds []string `yaml:"seeds"`
	// StartAlone lets a node that comes back serve before it has heard from any other.
	StartAlone bool `yaml:"start_alone"`
	// StrictAfter is how long a node may be without a majority before strict services end.
	StrictAfter time.Duration `yaml:"strict_after" min:"1s"`
}

// Enabled reports whether the node is part of a cluster, if only of one.
func (c Cluster) Enabled() bool { return c.Listen.IsValid() }

// What a service does while its node does not hear from a majority of the cluster.
const (
	PartitionAvailable = "available" // goes on by what the node knows
	PartitionStrict    = "strict"    // refuses new connections, then ends those that live
)

// Provider is an OpenID provider that users sign in with.
type Provider struct {
	Name             string   `yaml:"name" required:"true"`
	Issuer           string   `yaml:"issuer" required:"true"` // https URL, exactly as the provider says it
	ClientID         string   `yaml:"client_id" required:"true"`
	ClientSecretFile string   `yaml:"client_secret_file"` // none: a public client, with PKCE alone
	Scopes           []string `yaml:"scopes"`             // beside openid
	GroupsClaim      string   `yaml:"groups_claim" required:"true"`
	CAFile           string   `yaml:"ca_file"` // PEM; none: the system's
	// TrustedAudiences may stand in the aud of an ID token beside ClientID; one for anybody else too is refused.
	TrustedAudiences []string `yaml:"trusted_audiences"`
	Algorithms       []string `yaml:"algorithms"` // of ID tokens; none: all asymmetric ones
	// FrontChannelLogout lets whoever knows the provider's name of a session end it: for providers that cannot tell
	// the agent itself.
	FrontChannelLogout bool `yaml:"front_channel_logout"`
	// PostLogoutRedirect says that URL/signed-out/NAME is registered at the provider, for browsers to come back to.
	PostLogoutRedirect bool `yaml:"post_logout_redirect"`
	// Device lets users sign in by a code that they enter on another device. It can be phished: off by default.
	Device     bool       `yaml:"device"`
	Revalidate Revalidate `yaml:"revalidate"`
}

// Revalidate is how often the provider is asked whether it stands by a session that it began, with the refresh token
// that it gave; without one it cannot be asked.
type Revalidate struct {
	Every time.Duration `yaml:"every"` // 0: never
	Grace time.Duration `yaml:"grace"` // how long it may not answer, beyond every; 0: for ever
}

// Service is a TCP service behind the gateway.
type Service struct {
	Name string `yaml:"name" required:"true"` // a DNS label: it is the SNI too
	// Listen has the service's own addresses; without, it is reached by SNI on the gateway.
	Listen []netip.AddrPort `yaml:"listen"`
	// PlainListen has addresses without TLS, for sources bound to a session.
	PlainListen   []netip.AddrPort `yaml:"plain_listen"`
	Protocol      string           `yaml:"protocol" oneof:"tcp|postgres"`
	Upstream      string           `yaml:"upstream" required:"true"` // host:port
	UpstreamTLS   *UpstreamTLS     `yaml:"upstream_tls"`             // nil: plain TCP
	ProxyProtocol bool             `yaml:"proxy_protocol"`           // send a version 2 header
	Allow         string           `yaml:"allow" required:"true"`    // CEL
	Require       Require          `yaml:"require"`
	OPA           *OPA             `yaml:"opa"` // nil: nobody else is asked
	// AbsoluteTimeout bounds a connection; 0: the session's limits only. Idle time is the session's.
	AbsoluteTimeout time.Duration `yaml:"absolute_timeout"`
	IdleCounts      string        `yaml:"idle_counts" oneof:"client|both"` // default: the sessions' setting
	DialTimeout     time.Duration `yaml:"dial_timeout" min:"10ms"`
	MaxConnections  int           `yaml:"max_connections"` // 0: no limit but the sessions'
	TLSMin          TLSVersion    `yaml:"tls_min" required:"true"`
	ALPN            []string      `yaml:"alpn"` // protocols that clients may negotiate beside the service's own
	// Partition says what happens while this node does not hear from a majority of the cluster.
	Partition string `yaml:"partition" oneof:"available|strict"`
	// AllowCancel forwards PostgreSQL's cancel requests, which old clients send without TLS.
	AllowCancel bool `yaml:"allow_cancel"`
}

// Require is what a service asks of how its users were authenticated, beyond what Allow says: who lacks it is told how to
// get it, by signing in again.
type Require struct {
	ACR    []string      `yaml:"acr"`     // one of these; it is asked for at the provider
	AMR    []string      `yaml:"amr"`     // all of these
	MaxAge time.Duration `yaml:"max_age"` // since the user was authenticated, when a connection begins; 0: any
}

// Protocols of services.
const (
	ProtocolTCP      = "tcp"
	ProtocolPostgres = "postgres"
)

// UpstreamTLS is how the upstream is spoken to and checked. There is no way to switch the check off.
type UpstreamTLS struct {
	CA          string `yaml:"ca"`          // file, PEM; none: the system's
	Certificate string `yaml:"certificate"` // file, PEM: our client certificate
	Key         string `yaml:"key"`         // file, PEM
	ServerName  string `yaml:"server_name"` // default: the host of upstream
}
