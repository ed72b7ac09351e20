// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits on callers. They are root, but a script of root's may be broken too.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second // for one answer, or one batch of a stream
	idleTimeout   = 2 * time.Minute
	actTimeout    = time.Minute // for a kill or the creation of a session
	drainTimeout  = actTimeout + 5*time.Second
	maxBody       = 1 << 20 // bytes
)

// Config is what a Server needs. All fields must be set but Cluster, Streams, Metrics and AllowUIDs.
type Config struct {
	View   View
	Actor  Actor
	Health Health
	Events *Events
	// Cluster is nil where the node is in none.
	Cluster Cluster
	// Streams is nil where no transmitter of security events is configured.
	Streams Streams
	// Metrics serves GET /metrics; nil means that there are none.
	Metrics http.Handler
	Log     *slog.Logger
	// AllowUIDs are the users that may call; empty means root alone.
	AllowUIDs []uint32
}

// Server answers on the control socket.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// New returns a Server for cfg, or an error that names the field that is missing.
func New(cfg Config) (*Server, error) {
	for field, missing := range map[string]bool{
		"View": cfg.View == nil, "Actor": cfg.Actor == nil, "Health": cfg.Health == nil,
		"Events": cfg.Events == nil, "Log": cfg.Log == nil,
	} {
		if missing {
			return nil, fmt.Errorf("control server: Config.%s is not set", field)
		}
	}
	if len(cfg.AllowUIDs) == 0 {
		cfg.AllowUIDs = []uint32{0}
	}
	s := &Server{cfg: cfg}
	s.mux = s.routes()
	return s, nil
}

// Serve answers on ln, a Unix socket that its maker has restricted to root (mode 0600), until ctx
// is done; streams end then, and answers and kills under way are given a moment to finish. It owns
// ln and closes it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	srv := &http.Server{
		Handler:           s.admit(s.mux),
		BaseContext:       func(net.Listener) context.Context { return streams },
		ConnContext:       withPeer,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	drained := make(chan error, 1)
	served := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-served:
		}
		endStreams()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		drained <- srv.Shutdown(grace)
	}()
	err := srv.Serve(ln)
	close(served)
	drainErr := <-drained
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	if drainErr != nil {
		_ = srv.Close() // what is left are callers that do not read their answer
	}
	return nil
}
