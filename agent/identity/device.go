// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/session"
)

// slowDown is by how much a provider that says slow_down wants the interval longer (RFC 8628, section 3.5).
const slowDown = 5 * time.Second

// device is what a sign-in by a code has of its own. It goes from begun through exchanging, while the provider is asked, back
// to begun, and in the end to coded, where the session waits for the next poll. Logins' mutex guards the last group.
type device struct {
	handle digest // of what the client polls with
	code   string // the provider's device_code

	interval time.Duration
	next     time.Time // the provider is not asked before
	failures int       // since it last answered
}

// later sets when to ask next: further and further apart while there is no answer.
func (d *device) later(now time.Time) {
	d.next = now.Add(max(d.interval, min(d.interval<<min(d.failures, 8), deviceMaxInterval)))
}

func (d *device) pending(now time.Time) *api.DevicePending {
	w := &api.DevicePending{Interval: api.Seconds(max(time.Second, d.next.Sub(now)))}
	if d.failures > 0 {
		w.Problem = "the provider does not answer; it will be asked again"
	}
	return w
}

// BeginDevice starts a sign-in by a code for a client key. A sign-in under way for the same key is dropped.
func (l *Logins) BeginDevice(ctx context.Context, key session.Key, source netip.Addr, req api.DeviceRequest) (api.DeviceStarted, error) {
	started, err := l.beginDevice(ctx, key, source, req)
	if err != nil {
		l.cfg.Count(EventLoginRefused)
		return api.DeviceStarted{}, err
	}
	l.cfg.Count(EventLoginStarted)
	return started, nil
}

func (l *Logins) beginDevice(ctx context.Context, key session.Key, source netip.Addr, req api.DeviceRequest) (api.DeviceStarted, error) {
	p, err := l.provider(req.Provider)
	if err != nil {
		return api.DeviceStarted{}, err
	}
	if !p.config().Device {
		return api.DeviceStarted{}, noDevices(p)
	}
	if !l.devices.Admit(source, l.now()) {
		return api.DeviceStarted{}, errTooManyLogins
	}
	l.devices.Failed(source, l.now())
	p.await(discoverPatience)
	since := l.now()
	g, err := p.authorizeDevice(ctx)
	if err != nil {
		l.cfg.Log.Warn("device sign-in not started", "provider", p.Name(), "client_key_sha256", key, "error", err)
		return api.DeviceStarted{}, refusedDevice(p, err)
	}
	handle, now := marked(l.cfg.Mark), l.now()
	lg := &login{key: key, source: jose.SourceOf(source), provider: p, since: since, expires: now.Add(g.lifetime),
		device: &device{handle: digestOf(handle), code: g.code, interval: g.interval, next: now.Add(g.interval)}}
	if req.BindAddress {
		lg.bind = []netip.Addr{source.Unmap()}
	}
	if err := l.add(lg); err != nil {
		return api.DeviceStarted{}, err
	}
	return api.DeviceStarted{Provider: p.Name(), UserCode: g.userCode, VerificationURI: g.uri, VerificationURIComplete: g.uriComplete,
		ExpiresIn: api.Seconds(g.lifetime), Interval: api.Seconds(g.interval), Login: handle}, nil
}

// PollDevice returns the session if somebody has entered the code, or else what to wait for. It asks the provider if it is
// time for that.
func (l *Logins) PollDevice(ctx context.Context, key session.Key, handle string) (session.Session, *api.DevicePending, error) {
	lg, pending, err := l.claimDevice(key, handle)
	if pending != nil || err != nil {
		return session.Session{}, pending, err
	}
	if err := lg.refused(); err != nil {
		l.drop(lg)
		return session.Session{}, nil, err
	}
	if lg.stage == exchanging { // it is ours alone
		// Not cut short when the client hangs up: there may be tokens in the answer.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), jose.Timeout)
		signIn, err := lg.provider.pollDevice(asking, lg.device.code)
		cancel()
		if pending, err := l.answered(lg, signIn, err); pending != nil || err != nil {
			return session.Session{}, pending, err
		}
	}
	if ctx.Err() != nil { // nobody takes it: left for the next poll, or for Run to revoke
		return session.Session{}, &api.DevicePending{Interval: api.Seconds(time.Second)}, nil
	}
	if !l.takeOut(lg) {
		return session.Session{}, nil, errLoginGone
	}
	s, err := l.create(ctx, lg, session.MethodDevice)
	return s, nil, err
}

// claimDevice finds the sign-in that a poll is about. One that it returns is either coded, or exchanging, and then nobody else
// asks the provider. A handle that comes with another key has been stolen: the sign-in ends.
func (l *Logins) claimDevice(key session.Key, handle string) (*login, *api.DevicePending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	lg := l.pending.byHandle[digestOf(handle)]
	switch {
	case lg == nil:
		return nil, nil, errLoginGone
	case now.After(lg.expires):
		l.cfg.Count(EventLoginExpired)
		l.dropLocked(lg)
		return nil, nil, errDeviceTooLate
	case !equal(digest(lg.key), digest(key)):
		l.cfg.Count(EventCodeWrongKey)
		l.cfg.Log.Warn("device sign-in asked for with another key", "client_key_sha256", key, "want", lg.key)
		l.dropLocked(lg)
		return nil, nil, errLoginGone
	case lg.stage == begun && !now.Before(lg.device.next):
		lg.stage = exchanging
		return lg, nil, nil
	case lg.stage == coded:
		return lg, nil, nil
	}
	return nil, lg.device.pending(now), nil
}

// answered takes note of what the provider has said. Without an error and without anything to wait for, lg is coded.
func (l *Logins) answered(lg *login, signIn SignIn, err error) (*api.DevicePending, error) {
	log := l.cfg.Log.With("provider", lg.provider.Name(), "client_key_sha256", lg.key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.pending.has(lg) { // expired or replaced meanwhile
		l.cfg.Vault.discard(lg.provider, signIn.Tokens)
		return nil, errLoginGone
	}
	now := l.now()
	lg.signIn = signIn // what is dropped is revoked
	if err == nil {
		lg.stage, lg.expires = coded, now.Add(codeLifetime)
		return nil, nil
	}
	if told := l.ends(log, err); told != nil {
		l.dropLocked(lg)
		return nil, told
	}
	d := lg.device
	if errors.Is(err, errSilent) {
		d.failures++
		l.cfg.Count(EventDeviceUnanswered)
		log.Warn("provider cannot be asked about a device sign-in", "error", err)
	} else if d.failures = 0; errors.Is(err, errSlowDown) {
		d.interval += slowDown
	}
	lg.stage = begun
	d.later(now)
	return d.pending(now), nil
}

// ends counts and logs an answer that ends a sign-in, and returns what its user is told; nil for any other.
func (l *Logins) ends(log *slog.Logger, err error) error {
	switch {
	case errors.Is(err, errPending), errors.Is(err, errSlowDown), errors.Is(err, errSilent):
		return nil
	case errors.Is(err, errTooLate):
		l.cfg.Count(EventLoginExpired)
		return errDeviceTooLate
	case errors.Is(err, errDeclined):
		l.cfg.Count(EventProviderRefused)
		log.Info("provider refused a sign-in", "error", err)
		return &api.Error{Code: api.CodeProviderFailed, Message: "the sign-in was declined at the provider",
			Hint: "if that was not you, somebody has seen your code; else run `curfew login --device` again"}
	}
	l.cfg.Count(EventTokenRefused)
	log.Warn("provider's answer refused", "error", err)
	return &api.Error{Code: api.CodeProviderFailed, Message: "the provider's answer was refused: " + jose.Printable(err.Error()),
		Hint: "run `curfew login --device` again; if it stays so, ask the operator"}
}

// takeOut removes a sign-in, and reports whether it was there: of two who want it, one has it.
func (l *Logins) takeOut(lg *login) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	has := l.pending.has(lg)
	l.pending.remove(lg)
	return has
}

var errDeviceTooLate = &api.Error{Code: api.CodeLoginInvalid,
	Message: "nobody entered the code in time", Hint: "run `curfew login --device` again"}

func noDevices(p *Provider) error {
	return &api.Error{Code: api.CodeForbidden, Message: fmt.Sprintf("signing in with a code is switched off for the provider %s", p.Name()),
		Hint: "run `curfew login` where there is a browser; operators switch it on with device: true, and should know what that means"}
}

// refusedDevice says to the user why no code is to be had.
func refusedDevice(p *Provider, err error) error {
	if errors.Is(err, errNoDeviceFlow) {
		return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("the provider %s does not let users sign in with a code", p.Name()),
			Hint: "run `curfew login` where there is a browser"}
	}
	return unavailable(p)
}
