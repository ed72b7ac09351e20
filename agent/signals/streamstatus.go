// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Status returns whether the events of a stream come.
func (s *Streams) Status(ctx context.Context, id string) (StreamStatus, error) {
	raw, err := s.call(ctx, http.MethodGet, (*Metadata).status, url.Values{"stream_id": {id}}, nil, http.StatusOK)
	if err != nil {
		return StreamStatus{}, fmt.Errorf("read status: %w", err)
	}
	return readStatus(raw, id)
}

// SetStatus lets the events of a stream come, be held back, or be dropped: enabled, paused or disabled. The reason may be
// empty.
func (s *Streams) SetStatus(ctx context.Context, id, status, reason string) (StreamStatus, error) {
	if !isStatus(status) {
		return StreamStatus{}, fmt.Errorf("status %q: want %s, %s or %s", status, statusEnabled, statusPaused, statusDisabled)
	}
	body := StreamStatus{ID: id, Status: status, Reason: reason}
	raw, err := s.call(ctx, http.MethodPost, (*Metadata).status, nil, body, http.StatusOK)
	if err != nil {
		return StreamStatus{}, fmt.Errorf("set status: %w", err)
	}
	return readStatus(raw, id)
}

func readStatus(raw []byte, id string) (StreamStatus, error) {
	var now StreamStatus
	if err := unmarshal(raw, &now); err != nil {
		return now, fmt.Errorf("the status: %w", err)
	}
	if now.ID != "" && now.ID != id || !isStatus(now.Status) { // before SSF 1.0 the answer did not name the stream
		return now, errors.New("the status is none, or that of another stream")
	}
	now.ID, now.Reason = id, jose.Printable(now.Reason)
	return now, nil
}

func isStatus(s string) bool {
	return slices.Contains([]string{statusEnabled, statusPaused, statusDisabled}, s)
}

// AddSubject asks for the events about a subject: a subject identifier in JSON. Transmitters that have all subjects in a
// stream do without.
func (s *Streams) AddSubject(ctx context.Context, id string, subject json.RawMessage) error {
	if err := s.subject(ctx, (*Metadata).addSubject, id, subject); err != nil {
		return fmt.Errorf("add subject: %w", err)
	}
	return nil
}

// RemoveSubject asks for no more events about a subject. Some may come nevertheless, and are acted upon.
func (s *Streams) RemoveSubject(ctx context.Context, id string, subject json.RawMessage) error {
	if err := s.subject(ctx, (*Metadata).removeSubject, id, subject); err != nil {
		return fmt.Errorf("remove subject: %w", err)
	}
	return nil
}

func (s *Streams) subject(ctx context.Context, endpoint func(*Metadata) string, id string, subject json.RawMessage) error {
	if _, err := s.subjects.find(subject, nil); err != nil {
		return fmt.Errorf("%w: %w", ErrSubject, err)
	}
	_, err := s.call(ctx, http.MethodPost, endpoint, nil, map[string]any{"stream_id": id, "subject": subject}, http.StatusOK, http.StatusNoContent)
	return err
}

// Verify asks for a verification event and waits until it has come to this node, the whole way that events come: by push, or
// because Run polls. In a cluster another node may get it; then Verify waits until ctx is done.
func (s *Streams) Verify(ctx context.Context, id string) error {
	state, arrived, done := s.checks.begin(id)
	defer done()
	_, err := s.call(ctx, http.MethodPost, (*Metadata).verification, nil, map[string]string{"stream_id": id, "state": state}, http.StatusNoContent, http.StatusOK)
	if err != nil {
		return fmt.Errorf("verify stream: %w", err)
	}
	select {
	case <-arrived:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("verify stream: the verification event has not come to this node: %w", ctx.Err())
	}
}

func (m *Metadata) status() string        { return m.Status }
func (m *Metadata) addSubject() string    { return m.AddSubject }
func (m *Metadata) removeSubject() string { return m.RemoveSubject }
func (m *Metadata) verification() string  { return m.Verification }
