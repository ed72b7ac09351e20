// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Bounds on what a provider may ask for in a device flow.
const (
	deviceInterval    = 5 * time.Second // where it does not say (RFC 8628, section 3.2)
	deviceMaxInterval = time.Minute
	deviceMaxCode     = 64 // characters that somebody has to type
)

// deviceGrant is a provider's answer to the beginning of a device flow. Its code is a secret.
type deviceGrant struct {
	code               string
	userCode           string
	uri, uriComplete   string // uriComplete may be empty
	lifetime, interval time.Duration
}

// errNoDeviceFlow is returned where the provider does not have it.
var errNoDeviceFlow = errors.New("the provider has no device_authorization_endpoint")

// authorizeDevice begins a device flow (RFC 8628, section 3.1). Unlike x/oauth2, it says who we are: a confidential client
// has to.
func (p *Provider) authorizeDevice(ctx context.Context) (deviceGrant, error) {
	m, err := p.ready()
	if err != nil {
		return deviceGrant{}, err
	}
	if m.device == "" {
		return deviceGrant{}, errNoDeviceFlow
	}
	var a deviceAnswer
	form := url.Values{"client_id": {m.cfg.ClientID}, "scope": {strings.Join(m.cfg.Scopes, " ")}}
	status, err := m.ask(ctx, m.device, form, &a)
	if err != nil {
		return deviceGrant{}, err
	}
	if status != http.StatusOK || a.Error != "" {
		return deviceGrant{}, fmt.Errorf("the provider answered %d: %s", status, jose.Printable(cmp.Or(a.Error, "no error code")))
	}
	return a.grant()
}

// deviceAnswer is the provider's, in JSON (RFC 8628, section 3.2).
type deviceAnswer struct {
	DeviceCode  string  `json:"device_code"`
	UserCode    string  `json:"user_code"`
	URI         string  `json:"verification_uri"`
	URIComplete string  `json:"verification_uri_complete"`
	ExpiresIn   float64 `json:"expires_in"`
	Interval    float64 `json:"interval"`
	Error       string  `json:"error"`
}

func (a *deviceAnswer) grant() (deviceGrant, error) {
	g := deviceGrant{
		code: a.DeviceCode, userCode: a.UserCode, uri: a.URI, uriComplete: a.URIComplete,
		lifetime: seconds(a.ExpiresIn, loginLifetime), interval: cmp.Or(seconds(a.Interval, deviceMaxInterval), deviceInterval),
	}
	return g, g.check()
}

// seconds is what a provider says a time is, from nothing up to limit.
func seconds(n float64, limit time.Duration) time.Duration {
	return time.Duration(max(0, min(n, limit.Seconds())) * float64(time.Second))
}

// check refuses what a user should not be shown.
func (g *deviceGrant) check() error {
	switch {
	case g.code == "" || g.lifetime == 0:
		return errors.New("device_code or expires_in is missing")
	case g.userCode == "" || len(g.userCode) > deviceMaxCode || !jose.IsPrintable(g.userCode):
		return errors.New("user_code is missing, too long or not printable")
	}
	for _, uri := range []string{g.uri, cmp.Or(g.uriComplete, g.uri)} {
		if err := jose.CheckEndpoint(uri); err != nil {
			return fmt.Errorf("verification_uri: %w", err)
		}
		if len(uri) > jose.MaxText || !jose.IsPrintable(uri) {
			return errors.New("verification_uri is too long or not printable")
		}
	}
	return nil
}

// ask posts a form and reads the JSON that is answered. An error means that there was no answer that says anything.
func (m *metadata) ask(ctx context.Context, endpoint string, form url.Values, answer any) (status int, err error) {
	resp, err := m.post(ctx, endpoint, form)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
		return 0, fmt.Errorf("the provider answered %s", resp.Status)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return 0, fmt.Errorf("the provider answered %s, and not in JSON", resp.Status)
	}
	return resp.StatusCode, nil
}

const grantDevice = "urn:ietf:params:oauth:grant-type:device_code"

// What a provider may answer a poll with, beside tokens (RFC 8628, section 3.5).
var (
	errPending  = errors.New("authorization_pending")
	errSlowDown = errors.New("slow_down")
	errDeclined = errors.New("access_denied")
	errTooLate  = errors.New("expired_token")
	// errSilent is wrapped where there is no answer that says anything: it may be asked again.
	errSilent = errors.New("the provider does not answer")
)

// pollDevice asks once whether somebody has entered the code. With an error too, tokens are in the result, if there are any.
func (p *Provider) pollDevice(ctx context.Context, code string) (SignIn, error) {
	m, err := p.ready()
	if err != nil {
		return SignIn{}, fmt.Errorf("%w: %w", errSilent, err)
	}
	var a struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		IDToken string `json:"id_token"`
		Error   string `json:"error"`
	}
	asked := time.Now()
	status, err := m.ask(ctx, m.oauth.Endpoint.TokenURL, url.Values{"grant_type": {grantDevice}, "device_code": {code}}, &a)
	if err != nil {
		return SignIn{}, fmt.Errorf("%w: %w", errSilent, err)
	}
	if status == http.StatusOK && a.Error == "" {
		return p.granted(ctx, m, Tokens{Refresh: []byte(a.Refresh), Access: []byte(a.Access), IDToken: []byte(a.IDToken)}, asked, "")
	}
	for _, known := range []error{errPending, errSlowDown, errDeclined, errTooLate} {
		if a.Error == known.Error() {
			return SignIn{}, known
		}
	}
	return SignIn{}, fmt.Errorf("the provider answered %d: %s", status, jose.Printable(cmp.Or(a.Error, "no error code")))
}
