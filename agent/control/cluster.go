// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Bounds of what a token may be asked to be good for.
const (
	defaultTokenTTL = time.Hour
	maxTokenTTL     = 7 * 24 * time.Hour
	maxTokenUses    = 1000
)

// inCluster answers for a node that is in no cluster.
func (s *Server) inCluster(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Cluster == nil {
			writeError(w, &api.Error{Code: api.CodeUnavailable, Message: "this node is in no cluster",
				Hint: "say cluster: {listen: 0.0.0.0:7946} in the configuration and restart the agent; or join one with: curfew agent --join TOKEN"})
			return
		}
		next(w, r)
	}
}

// nodes lists the nodes by name, this one first.
func (s *Server) nodes(w http.ResponseWriter, _ *http.Request) {
	info := s.cfg.Cluster.Nodes()
	slices.SortFunc(info.Nodes, func(a, b api.NodeInfo) int {
		switch {
		case a.Self != b.Self && a.Self:
			return -1
		case a.Self != b.Self:
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	writeJSON(w, info)
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	var req api.TokenRequest
	if err := readJSON(w, r, &req); err != nil {
		writeError(w, err)
		return
	}
	req.TTL, req.Uses = cmp.Or(req.TTL, api.Seconds(defaultTokenTTL)), cmp.Or(req.Uses, 1)
	if req.TTL < 0 || req.TTL.Duration() > maxTokenTTL || req.Uses < 0 || req.Uses > maxTokenUses {
		writeError(w, badRequest("a token is good for at most a week and 1000 nodes", "make another one when it is needed"))
		return
	}
	s.act(r, func(ctx context.Context, by string) {
		res, err := s.cfg.Cluster.Token(ctx, req, by)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, res)
	})
}

func (s *Server) changeCluster(w http.ResponseWriter, r *http.Request) {
	var req api.ClusterChange
	if err := readJSON(w, r, &req); err != nil {
		writeError(w, err)
		return
	}
	if (req.Remove == "") == !req.Rotate {
		writeError(w, badRequest("want one change", "name a node to remove, or ask for a rotation"))
		return
	}
	s.act(r, func(ctx context.Context, by string) {
		if err := s.cfg.Cluster.Change(ctx, req, by); err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, s.cfg.Cluster.Nodes())
	})
}
