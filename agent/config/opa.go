// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// OPA is an outside policy engine that is asked when the service's own policy has said yes: Open Policy Agent, or what
// speaks its data API.
type OPA struct {
	URL       string        `yaml:"url" required:"true"` // of the document with the decision: https://HOST/v1/data/PACKAGE/RULE
	Timeout   time.Duration `yaml:"timeout" min:"10ms"`  // of a question; without an answer by then it is a no
	Cache     time.Duration `yaml:"cache"`               // how long a yes is kept; 0: not at all
	TokenFile string        `yaml:"token_file"`          // a bearer token; none: we do not say who we are
	CAFile    string        `yaml:"ca_file"`             // PEM; none: the system's
}

// Limits on policy engines: a connection waits for the answer, and a yes that is kept cannot be taken back.
const (
	maxOPATimeout = 10 * time.Second
	maxOPACache   = time.Hour
)

func (d *document) checkOPA(key string, o *OPA) {
	if o == nil {
		return
	}
	const hint = "for example https://opa.example.com/v1/data/curfew/allow"
	d.checkSource(key+".url", o.URL, "the address of a decision", hint)
	if u, err := url.Parse(o.URL); err == nil && o.URL != "" && !strings.Contains(u.Path, "/v1/data/") {
		d.wrong(key+".url", fmt.Sprintf("%q is no document of OPA's data API", o.URL), hint)
	}
	if o.Timeout > maxOPATimeout {
		d.wrong(key+".timeout", fmt.Sprintf("%s is too long: connections wait for it", o.Timeout), fmt.Sprintf("at most %s", maxOPATimeout))
	}
	if o.Cache > maxOPACache {
		d.wrong(key+".cache", fmt.Sprintf("%s is too long: the engine cannot take back a yes before", o.Cache), fmt.Sprintf("at most %s", maxOPACache))
	}
}

func (d *document) checkOPAFiles(key string, o *OPA) {
	if o == nil {
		return
	}
	d.checkTokenFile(key+".token_file", o.TokenFile, 1)
	if b := d.readFile(key+".token_file", o.TokenFile, true); len(bytes.Fields(b)) > 1 {
		d.wrong(key+".token_file", o.TokenFile+" has more than one token", "we show one: which?")
	}
	d.checkCA(key+".ca_file", o.CAFile)
}
