// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// How long a client waits for the agent.
const (
	lookTimeout  = 10 * time.Second
	probeTimeout = 3 * time.Second
	killTimeout  = actTimeout + 5*time.Second
	maxErrorBody = 1 << 16 // bytes
)

// Client speaks to the agent's control socket. All its errors are *api.Error with a hint where
// there is one to give. Safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the Unix socket at path. It connects when it is used.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks how the agent is.
func (c *Client) Status(ctx context.Context) (st api.Status, err error) {
	return st, c.get(ctx, "/v1/status", nil, &st)
}

// Services lists the services by name.
func (c *Client) Services(ctx context.Context) (list []api.ServiceInfo, err error) {
	return list, c.get(ctx, "/v1/services", nil, &list)
}

// Sessions lists the live sessions, newest first; with all also those that ended not long ago.
// An empty subject means everybody.
func (c *Client) Sessions(ctx context.Context, subject string, all bool) (list []api.SessionInfo, err error) {
	q := url.Values{"subject": {subject}, "all": {strconv.FormatBool(all)}}
	return list, c.get(ctx, "/v1/sessions", q, &list)
}

// Session returns one session by its ID or a unique prefix of it.
func (c *Client) Session(ctx context.Context, prefix string) (si api.SessionInfo, err error) {
	return si, c.get(ctx, "/v1/sessions/"+url.PathEscape(prefix), nil, &si)
}

// ConnectionFilter narrows a list of connections; empty fields do not.
type ConnectionFilter struct {
	Session, Service, Subject string
}

// Connections lists live connections, oldest first.
func (c *Client) Connections(ctx context.Context, f ConnectionFilter) (list []api.ConnectionInfo, err error) {
	q := url.Values{"session": {f.Session}, "service": {f.Service}, "subject": {f.Subject}}
	return list, c.get(ctx, "/v1/connections", q, &list)
}

// Kill ends sessions and returns the proof.
func (c *Client) Kill(ctx context.Context, req api.KillRequest) (res api.KillResult, err error) {
	return res, c.post(ctx, "/v1/kill", req, &res)
}

// CreateSession makes a session for a key.
func (c *Client) CreateSession(ctx context.Context, req api.CreateSessionRequest) (res api.CreateSessionResult, err error) {
	return res, c.post(ctx, "/v1/sessions", req, &res)
}

// Nodes asks for the agent's view of its cluster.
func (c *Client) Nodes(ctx context.Context) (info api.ClusterInfo, err error) {
	return info, c.get(ctx, "/v1/cluster", nil, &info)
}

// ClusterToken makes a token that lets nodes join.
func (c *Client) ClusterToken(ctx context.Context, req api.TokenRequest) (res api.TokenResult, err error) {
	return res, c.post(ctx, "/v1/cluster/token", req, &res)
}

// ChangeCluster changes who is in the cluster, and returns the view of it afterwards.
func (c *Client) ChangeCluster(ctx context.Context, req api.ClusterChange) (info api.ClusterInfo, err error) {
	return info, c.post(ctx, "/v1/cluster", req, &info)
}

// Streams does something with the streams of a transmitter of security events, and returns those that it is about.
func (c *Client) Streams(ctx context.Context, req api.StreamsRequest) (list []api.StreamInfo, err error) {
	return list, c.post(ctx, "/v1/streams", req, &list)
}

// Events calls each with the events after sequence number since that the agent still holds and,
// with follow, with all that come until ctx is done (then it returns nil). An error of each ends
// it and is returned.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, each func(api.Event) error) error {
	q := url.Values{"since": {strconv.FormatUint(since, 10)}, "follow": {strconv.FormatBool(follow)}}
	resp, err := c.send(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var ev api.Event
		if err := dec.Decode(&ev); err != nil {
			switch {
			case ctx.Err() != nil, !follow && errors.Is(err, io.EOF):
				return nil
			case errors.Is(err, io.EOF):
				return c.unreachable("the agent has stopped", "", err)
			}
			return c.explain(fmt.Errorf("read events: %w", err))
		}
		if err := each(ev); err != nil {
			return err
		}
	}
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return c.roundTrip(ctx, http.MethodGet, path+"?"+q.Encode(), nil, into)
}

// post asks for something that may take long. An agent that hangs is found out before: whoever has
// to kill a session should know at once that it needs another way.
func (c *Client) post(ctx context.Context, path string, body, into any) error {
	probe, cancelProbe := context.WithTimeout(ctx, probeTimeout)
	defer cancelProbe()
	if err := c.roundTrip(probe, http.MethodGet, "/v1/status", nil, &api.Status{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	return c.roundTrip(ctx, http.MethodPost, path, b, into)
}

func (c *Client) roundTrip(ctx context.Context, method, path string, body []byte, into any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return c.explain(fmt.Errorf("read answer: %w", err))
	}
	return nil
}

// send returns a successful answer, or an error. The caller closes the body.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://curfew"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &api.Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(e); err != nil || e.Message == "" {
		return nil, &api.Error{Code: api.CodeInternal, Message: "the agent answered " + resp.Status}
	}
	return nil, e
}

// explain turns what went wrong on the way into an error that says what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.unreachable("there is no control socket at "+c.socket, "is the agent running? Start it with: curfew agent", err)
	case errors.Is(err, fs.ErrPermission):
		return c.unreachable("the control socket "+c.socket+" may not be opened by this user", "run the command as root", err)
	case errors.Is(err, context.Canceled):
		return c.unreachable("interrupted", "", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return c.unreachable("the agent does not answer on "+c.socket, "if it hangs, kill sessions without it: curfew kill --local", err)
	case isRefused(err):
		return c.unreachable("nobody answers on the control socket "+c.socket, "the agent is not running. Start it with: curfew agent", err)
	}
	return c.unreachable(fmt.Sprintf("control socket %s: %v", c.socket, err), "", err)
}

func (c *Client) unreachable(message, hint string, cause error) error {
	return &api.Error{Code: api.CodeUnreachable, Message: message, Hint: hint, Cause: cause}
}

func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !op.Timeout()
}
