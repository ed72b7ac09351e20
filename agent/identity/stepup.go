// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Demand is what a sign-in must have for a service. Nil: nothing but what every sign-in must. Immutable.
type Demand struct {
	service string
	require session.Requirement
	anew    bool // whoever is signed in at the provider must be authenticated again
	fresh   bool // in this very sign-in, and the provider must say so: see Logins.again
}

// demandOf is what a service that requires r demands of the next sign-in of who.
func demandOf(service string, r session.Requirement, who session.Identity, now time.Time) *Demand {
	if r.Empty() {
		return nil
	}
	// There is no parameter to ask for amr with: only a new authentication can bring another. What acr_values says is
	// for the provider to see to, which may have a better way than to begin from the beginning.
	byTime := session.Requirement{AMR: r.AMR, MaxAge: r.MaxAge}
	return &Demand{service: service, require: r, anew: byTime.Missing(who, now) != ""}
}

// options are the parameters of the authorization request (OpenID Connect Core 1.0, section 3.1.2.1).
func (d *Demand) options() (list []oauth2.AuthCodeOption) {
	if d == nil {
		return nil
	}
	if len(d.require.ACR) > 0 {
		list = append(list, oauth2.SetAuthURLParam("acr_values", strings.Join(d.require.ACR, " ")))
	}
	switch { // a provider that is asked for max_age must say auth_time
	case d.fresh:
		list = append(list, oauth2.SetAuthURLParam("max_age", "0"))
	case d.require.MaxAge > 0:
		list = append(list, oauth2.SetAuthURLParam("max_age", strconv.FormatInt(int64(d.require.MaxAge/time.Second), 10)))
	}
	if d.anew {
		list = append(list, oauth2.SetAuthURLParam("prompt", "login"))
	}
	return list
}

// withAfresh demands, beside all else, that the provider authenticates whoever it is in this very sign-in.
func (d *Demand) withAfresh() *Demand {
	var more Demand
	if d != nil {
		more = *d
	}
	more.anew, more.fresh = true, true
	return &more
}

func (d *Demand) afresh() bool { return d != nil && d.fresh }

// check refuses a sign-in that lacks what was asked for: a provider is free to ignore acr_values, and may get max_age wrong.
func (d *Demand) check(who session.Identity, now time.Time) error {
	if d == nil {
		return nil
	}
	if lacks := d.require.Missing(who, now); lacks != "" {
		return fmt.Errorf("the provider signed you in, but not as %s asks: %s", d.service, lacks)
	}
	return nil
}

// demandFor finds a service among those of a session, and says what its next sign-in must have.
func demandFor(service string, services []api.Service, who session.Identity, now time.Time) (*Demand, error) {
	var names []string
	for _, s := range services {
		if s.Name == service {
			return demandOf(service, s.Require.Requirement(), who, now), nil
		}
		names = append(names, s.Name)
	}
	e := &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no service %q, or you may not use it", service)}
	if len(names) > 0 {
		e.Hint = "you may use: " + strings.Join(names, ", ")
	}
	return nil, e
}
