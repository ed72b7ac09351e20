// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Methods of delivery: SSF 1.0, section 6.1.
const (
	MethodPush = "urn:ietf:rfc:8935"
	MethodPoll = "urn:ietf:rfc:8936"
)

// Statuses of streams: SSF 1.0, section 8.1.2.1.
const (
	statusEnabled  = "enabled"
	statusPaused   = "paused"
	statusDisabled = "disabled"
)

// Stream is the configuration of a stream, as the transmitter has it: SSF 1.0, section 8.1.1.
type Stream struct {
	ID               string   `json:"stream_id"`
	Issuer           string   `json:"iss"`
	Audience         Audience `json:"aud"`
	Delivery         Delivery `json:"delivery"`
	EventsSupported  []string `json:"events_supported,omitempty"`
	EventsRequested  []string `json:"events_requested,omitempty"`
	EventsDelivered  []string `json:"events_delivered,omitempty"`
	MinVerification  int      `json:"min_verification_interval,omitempty"` // seconds between two requests for verification
	InactivityExpiry int      `json:"inactivity_timeout,omitempty"`        // seconds
	Description      string   `json:"description,omitempty"`
}

// Delivery is how the events of a stream are delivered.
type Delivery struct {
	Method   string `json:"method"`
	Endpoint string `json:"endpoint_url,omitempty"` // ours for push, the transmitter's for poll
	// Authorization is the header that the transmitter sends with each push. It is not in what a Streams returns.
	Authorization string `json:"authorization_header,omitempty"`
}

// Audience is the claim aud: in JSON a string, or an array of strings.
type Audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *Audience) UnmarshalJSON(b []byte) (err error) {
	*a, err = jose.Texts("aud", b)
	return err
}

// StreamRequest is what is asked for when a stream is set up or changed.
type StreamRequest struct {
	Method      string   // MethodPush or MethodPoll
	Endpoint    string   // for push: https://AGENT/v1/signals/NAME
	Events      []string // default: EventTypes
	Description string   // may be empty
}

// StreamStatus is whether events come: SSF 1.0, section 8.1.2.
type StreamStatus struct {
	ID     string `json:"stream_id"`
	Status string `json:"status"` // enabled, paused or disabled
	Reason string `json:"reason,omitempty"`
}

// body is a request in JSON; id is empty for a new stream. A partial one has nothing that q does not say.
func (q *StreamRequest) body(t *Transmitter, id string, partial bool) (map[string]any, error) {
	body := map[string]any{}
	if q.Method != "" || !partial {
		delivery, err := q.delivery(t)
		if err != nil {
			return nil, err
		}
		body["delivery"] = delivery
	}
	switch {
	case len(q.Events) > 0:
		body["events_requested"] = q.Events
	case !partial:
		body["events_requested"] = EventTypes()
	}
	if q.Description != "" {
		body["description"] = q.Description
	}
	if id != "" {
		body["stream_id"] = id
	}
	return body, nil
}

func (q *StreamRequest) delivery(t *Transmitter) (Delivery, error) {
	switch q.Method {
	case MethodPush:
		if len(t.Tokens) == 0 {
			return Delivery{}, errors.New("tokens: the transmitter has no token to push events with")
		}
		if err := jose.CheckEndpoint(q.Endpoint); err != nil {
			return Delivery{}, fmt.Errorf("endpoint: %w", err)
		}
		return Delivery{MethodPush, q.Endpoint, "Bearer " + t.Tokens[0]}, nil
	case MethodPoll:
		return Delivery{Method: MethodPoll}, nil
	}
	return Delivery{}, fmt.Errorf("method %q: want %s or %s", q.Method, MethodPush, MethodPoll)
}

// readStream reads a stream that the transmitter has described, and checks that its events could be accepted: section
// 8.1.1.1 has the receiver compare the issuer.
func readStream(raw []byte, t *Transmitter) (Stream, error) {
	var s Stream
	if err := unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("the stream: %w", err)
	}
	s.Delivery.Authorization = ""
	switch {
	case s.ID == "" || len(s.ID) > maxIdentifier || !jose.IsPrintable(s.ID):
		return s, errors.New("the stream has no stream_id, or a strange one")
	case s.Issuer != t.Issuer:
		return s, fmt.Errorf("the stream is of issuer %q, not of %q", jose.Printable(s.Issuer), t.Issuer)
	case !slices.Contains(s.Audience, t.Audience):
		return s, fmt.Errorf("the stream is for the audience %q: configure that, if it is you", jose.Printable(fmt.Sprint([]string(s.Audience))))
	case len(s.Audience) > 1:
		return s, fmt.Errorf("the stream is for several audiences, %q: its events would be refused", jose.Printable(fmt.Sprint([]string(s.Audience))))
	}
	return s, nil
}

// readStreams reads the answer to a request for all streams.
func readStreams(raw []byte, t *Transmitter) ([]Stream, error) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, errors.New("the streams are not a list")
	}
	streams := make([]Stream, len(list))
	for i, one := range list {
		var err error
		if streams[i], err = readStream(one, t); err != nil {
			return nil, err
		}
	}
	return streams, nil
}
