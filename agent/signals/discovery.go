// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Metadata is what a transmitter says of itself: SSF 1.0, section 7.1. Endpoints that are empty it does not have.
type Metadata struct {
	SpecVersion     string   `json:"spec_version,omitempty"`
	Issuer          string   `json:"issuer"`
	JWKSURI         string   `json:"jwks_uri,omitempty"`
	DeliveryMethods []string `json:"delivery_methods_supported,omitempty"`
	Configuration   string   `json:"configuration_endpoint,omitempty"`
	Status          string   `json:"status_endpoint,omitempty"`
	AddSubject      string   `json:"add_subject_endpoint,omitempty"`
	RemoveSubject   string   `json:"remove_subject_endpoint,omitempty"`
	Verification    string   `json:"verification_endpoint,omitempty"`
	Critical        []string `json:"critical_subject_members,omitempty"`
	DefaultSubjects string   `json:"default_subjects,omitempty"` // ALL or NoSubjects
}

// NoSubjects: a new stream has no events, until subjects are added to it.
const NoSubjects = "NONE"

// check says what is wrong with m as the metadata of an issuer: section 7.2.4.
func (m *Metadata) check(issuer string) error {
	if m.Issuer != issuer { // or one transmitter could speak for another
		return fmt.Errorf("the transmitter calls itself %q, not %q", jose.Printable(m.Issuer), issuer)
	}
	for name, endpoint := range map[string]string{"jwks_uri": m.JWKSURI, "configuration_endpoint": m.Configuration, "status_endpoint": m.Status,
		"add_subject_endpoint": m.AddSubject, "remove_subject_endpoint": m.RemoveSubject, "verification_endpoint": m.Verification} {
		if endpoint == "" {
			continue
		}
		if err := jose.CheckEndpoint(endpoint); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// wellKnown returns where an issuer's metadata is: section 7.2.1, the path of the issuer goes last.
func wellKnown(issuer string) (string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return "", err
	}
	return u.Scheme + "://" + u.Host + "/.well-known/ssf-configuration" + strings.TrimSuffix(u.EscapedPath(), "/"), nil
}

// discover reads the transmitter's metadata anew.
func (r *receiver) discover(ctx context.Context) (*Metadata, error) {
	where, err := wellKnown(r.cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	status, body, _, err := roundTrip(r.client, req)
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("discover: %s answered %d", where, status)
	}
	m := &Metadata{}
	if err := errors.Join(unmarshal(body, m), m.check(r.cfg.Issuer)); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	r.metadata.latest.Store(m)
	return m, nil
}

// locateKeys returns the jwks_uri of the transmitter's metadata.
func (r *receiver) locateKeys(ctx context.Context) (string, error) {
	m, err := r.discover(ctx)
	if err != nil {
		return "", err
	}
	if m.JWKSURI == "" {
		return "", errors.New("discover: the transmitter does not say where its keys are")
	}
	return m.JWKSURI, nil
}

// metadataCache has the metadata that was read last. That is not long ago where keys are looked up in it.
type metadataCache struct{ latest atomic.Pointer[Metadata] }

// critical returns the members of subjects that have to be understood.
func (c *metadataCache) critical() []string {
	if m := c.latest.Load(); m != nil {
		return m.Critical
	}
	return nil
}

// unmarshal reads one JSON object whose names differ in more than case.
func unmarshal(body []byte, v any) error {
	if _, err := jose.ParseClaims(body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
