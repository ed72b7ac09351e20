// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/signals"
)

// streams implements control.Streams.
type streams struct {
	signals *listening
	url     func() string // of the gateway
}

// verifyPatience is how long a verification event may be on its way.
const verifyPatience = 30 * time.Second

// streamStatus is what a transmitter calls what is asked for.
var streamStatus = map[string]string{api.StreamsEnable: "enabled", api.StreamsPause: "paused", api.StreamsDisable: "disabled"}

// Streams implements control.Streams.
func (s *streams) Streams(ctx context.Context, req api.StreamsRequest) ([]api.StreamInfo, error) {
	of, err := s.signals.now.Load().Streams(req.Transmitter)
	if err != nil {
		return nil, &api.Error{Code: api.CodeNotFound, Message: err.Error(), Hint: "it is the name below signals: in the configuration"}
	}
	list, err := s.do(ctx, of, req)
	if err == nil {
		return list, nil
	}
	e := &api.Error{Code: api.CodeUnavailable, Message: err.Error(), Cause: err, Hint: "the transmitter says no, or does not answer: see its own log, and docs/signals.md"}
	switch {
	case errors.Is(err, signals.ErrNoEndpoint):
		e.Hint = "set the stream up in the transmitter's console"
	case errors.Is(err, signals.ErrSubject):
		e.Code, e.Hint = api.CodeBadRequest, `want an address, or {"format":"iss_sub","iss":ISSUER,"sub":SUBJECT}`
	case errors.Is(err, signals.ErrPending):
		e.Hint = "look again later: curfew streams list " + req.Transmitter
	case req.Do == api.StreamsVerify:
		e.Hint = "can the transmitter reach this agent, and does it believe its certificate? In a cluster another node may have got the event"
	}
	return nil, e
}

func (s *streams) do(ctx context.Context, of *signals.Streams, req api.StreamsRequest) ([]api.StreamInfo, error) {
	switch req.Do {
	case api.StreamsList:
		return s.list(ctx, of)
	case api.StreamsCreate:
		return s.create(ctx, of, req)
	case api.StreamsDelete:
		return nil, of.Delete(ctx, req.Stream)
	}
	if err := s.change(ctx, of, req); err != nil {
		return nil, err
	}
	got, err := of.Get(ctx, req.Stream)
	if err != nil {
		return nil, err
	}
	return []api.StreamInfo{s.withStatus(ctx, of, streamInfo(got))}, nil
}

// create makes a stream, and says so if its transmitter has nobody in a new one.
func (s *streams) create(ctx context.Context, of *signals.Streams, req api.StreamsRequest) ([]api.StreamInfo, error) {
	made, err := of.Create(ctx, s.wanted(req))
	if err != nil {
		return nil, err
	}
	info := streamInfo(made)
	if about, err := of.Metadata(ctx); err == nil && about.DefaultSubjects == signals.NoSubjects {
		info.Hint = fmt.Sprintf("this transmitter sends events only about subjects that were added: curfew streams add %s %s ADDRESS", req.Transmitter, made.ID)
	}
	return []api.StreamInfo{info}, nil
}

// wanted is a stream as we want it.
func (s *streams) wanted(req api.StreamsRequest) signals.StreamRequest {
	q := signals.StreamRequest{Method: signals.MethodPush, Endpoint: strings.TrimSuffix(s.url(), "/") + api.PathSignals + req.Transmitter, Description: req.Description}
	if req.Poll {
		q.Method, q.Endpoint = signals.MethodPoll, ""
	}
	return q
}

// change does something with a stream that is there.
func (s *streams) change(ctx context.Context, of *signals.Streams, req api.StreamsRequest) error {
	var err error
	switch req.Do {
	case api.StreamsUpdate:
		_, err = of.Replace(ctx, req.Stream, s.wanted(req))
	case api.StreamsAdd:
		err = of.AddSubject(ctx, req.Stream, req.Subject)
	case api.StreamsRemove:
		err = of.RemoveSubject(ctx, req.Stream, req.Subject)
	case api.StreamsVerify:
		patience, cancel := context.WithTimeout(ctx, verifyPatience)
		defer cancel()
		err = of.Verify(patience, req.Stream)
	default:
		_, err = of.SetStatus(ctx, req.Stream, streamStatus[req.Do], req.Reason)
	}
	return err
}

func (s *streams) list(ctx context.Context, of *signals.Streams) (list []api.StreamInfo, err error) {
	all, err := of.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, stream := range all {
		list = append(list, s.withStatus(ctx, of, streamInfo(stream)))
	}
	return list, nil
}

// withStatus adds whether events come, if the transmitter tells.
func (s *streams) withStatus(ctx context.Context, of *signals.Streams, info api.StreamInfo) api.StreamInfo {
	status, err := of.Status(ctx, info.ID)
	if err != nil {
		info.Status = fmt.Sprintf("not known: %v", err)
		return info
	}
	info.Status, info.Reason = status.Status, status.Reason
	return info
}

func streamInfo(s signals.Stream) api.StreamInfo {
	info := api.StreamInfo{ID: s.ID, Delivery: "push", Endpoint: s.Delivery.Endpoint, Events: s.EventsDelivered, Description: s.Description}
	if s.Delivery.Method == signals.MethodPoll {
		info.Delivery = "poll"
	}
	return info
}
