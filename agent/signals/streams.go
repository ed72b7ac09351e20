// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// cleanUp is how long it may take to delete a stream that is of no use.
const cleanUp = 10 * time.Second

// Errors of Streams.
var (
	// ErrNoEndpoint: the transmitter does not offer that.
	ErrNoEndpoint = errors.New("the transmitter has no endpoint for that")
	// ErrPending: the transmitter has taken note, and has not done it yet.
	ErrPending = errors.New("the transmitter has not decided yet: look again later")
	// ErrSubject: events about such a subject could not be acted upon.
	ErrSubject = errors.New("nobody could be known by this subject")
)

// Streams manages the streams of one transmitter, as the client of its API: SSF 1.0, section 8. Its errors say what the
// transmitter answered, and have nothing of the answer in them. It is safe for concurrent use.
type Streams struct{ *receiver }

// Streams returns the streams of a configured transmitter, or an error if there is none of that name.
func (s *Signals) Streams(name string) (*Streams, error) {
	r := s.receivers[name]
	if r == nil {
		return nil, fmt.Errorf("no transmitter is called %q", name)
	}
	return &Streams{r}, nil
}

// Metadata reads what the transmitter says of itself.
func (s *Streams) Metadata(ctx context.Context) (*Metadata, error) { return s.discover(ctx) }

// Create makes a stream. One whose events would not be accepted here is deleted again, and the error says why.
func (s *Streams) Create(ctx context.Context, q StreamRequest) (Stream, error) {
	body, err := q.body(&s.cfg, "", false)
	if err != nil {
		return Stream{}, err
	}
	raw, err := s.call(ctx, http.MethodPost, (*Metadata).configuration, nil, body, http.StatusCreated, http.StatusOK)
	if err != nil {
		return Stream{}, fmt.Errorf("create stream: %w", err)
	}
	made, err := readStream(raw, &s.cfg)
	if err == nil && made.Delivery.Method != q.Method {
		err = errors.New("the stream is delivered in another way than was asked for")
	}
	if err == nil {
		return made, nil
	}
	if made.ID != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(err, s.Delete(ctx, made.ID))
	}
	return Stream{}, err
}

// Get returns a stream.
func (s *Streams) Get(ctx context.Context, id string) (Stream, error) {
	raw, err := s.call(ctx, http.MethodGet, (*Metadata).configuration, url.Values{"stream_id": {id}}, nil, http.StatusOK)
	if err != nil {
		return Stream{}, fmt.Errorf("read stream: %w", err)
	}
	return readStream(raw, &s.cfg)
}

// List returns all streams that the transmitter has for us.
func (s *Streams) List(ctx context.Context) ([]Stream, error) {
	raw, err := s.call(ctx, http.MethodGet, (*Metadata).configuration, nil, nil, http.StatusOK)
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return readStreams(raw, &s.cfg)
}

// Update changes what is in the request and leaves the rest of the stream alone.
func (s *Streams) Update(ctx context.Context, id string, q StreamRequest) (Stream, error) {
	body, err := q.body(&s.cfg, id, true)
	if err != nil {
		return Stream{}, err
	}
	return s.change(ctx, http.MethodPatch, body)
}

// Replace changes a stream to what is in the request, and nothing else.
func (s *Streams) Replace(ctx context.Context, id string, q StreamRequest) (Stream, error) {
	body, err := q.body(&s.cfg, id, false)
	if err != nil {
		return Stream{}, err
	}
	return s.change(ctx, http.MethodPut, body)
}

func (s *Streams) change(ctx context.Context, method string, body map[string]any) (Stream, error) {
	raw, err := s.call(ctx, method, (*Metadata).configuration, nil, body, http.StatusOK)
	if err != nil {
		return Stream{}, fmt.Errorf("change stream: %w", err)
	}
	return readStream(raw, &s.cfg)
}

// Delete ends a stream.
func (s *Streams) Delete(ctx context.Context, id string) error {
	_, err := s.call(ctx, http.MethodDelete, (*Metadata).configuration, url.Values{"stream_id": {id}}, nil, http.StatusNoContent)
	if err != nil {
		return fmt.Errorf("delete stream: %w", err)
	}
	return nil
}

func (m *Metadata) configuration() string { return m.Configuration }

// call sends a request to one of the transmitter's endpoints, with JSON if body is not nil, and returns the answer if its
// status is one of want. A token that has expired is replaced once.
func (s *Streams) call(ctx context.Context, method string, endpoint func(*Metadata) string, query url.Values, body any, want ...int) ([]byte, error) {
	m, err := s.discover(ctx)
	if err != nil {
		return nil, err
	}
	where := endpoint(m)
	if where == "" {
		return nil, ErrNoEndpoint
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	if len(query) > 0 { // beside those that the endpoint may have
		all := u.Query()
		for name, values := range query {
			all[name] = values
		}
		u.RawQuery = all.Encode()
	}
	var sent []byte
	if body != nil {
		if sent, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	answer, err := s.send(ctx, method, u.String(), sent, want)
	var answered *statusError
	if errors.As(err, &answered) && answered.status == http.StatusUnauthorized && s.cfg.Access.ClientID != "" {
		answer, err = s.send(ctx, method, u.String(), sent, want)
	}
	return answer, err
}

func (s *Streams) send(ctx context.Context, method, where string, body []byte, want []int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, where, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	refused, err := s.access.authorize(r)
	if err != nil {
		return nil, err
	}
	status, answer, _, err := roundTrip(s.client, r)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusUnauthorized:
		refused()
	case status == http.StatusAccepted:
		return nil, ErrPending
	case slices.Contains(want, status):
		return answer, nil
	}
	return nil, &statusError{status: status}
}
