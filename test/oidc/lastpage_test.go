// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// checkLastPage waits for a page of ours that ends a sign-in, one way or the other: it says what
// it should in both colour schemes, needs nothing but itself, and has a policy that would not let
// it have more.
func (d *devtools) checkLastPage(t *testing.T, name string, at *regexp.Regexp, says ...string) {
	t.Helper()
	text := d.text(t, at)
	for _, s := range says {
		if !strings.Contains(text, s) {
			t.Errorf("the page at %s says %q, not %q", at, text, s)
		}
	}
	light, dark := d.screenshot(t, name, "light"), d.screenshot(t, name, "dark")
	if l, _, _, _ := light.At(0, 0).RGBA(); l < 0xc000 {
		t.Errorf("light: red is %#x in the corner", l)
	}
	if r, _, _, _ := dark.At(0, 0).RGBA(); r > 0x4000 {
		t.Errorf("dark: red is %#x in the corner", r)
	}
	d.checkSelfContained(t, at)
	d.checkPolicy(t)
}

// checkSelfContained is for a page that nothing has been done to yet.
func (d *devtools) checkSelfContained(t *testing.T, at *regexp.Regexp) {
	t.Helper()
	var scripts int
	if err := d.eval("document.scripts.length", &scripts); err != nil || scripts != 0 {
		t.Errorf("%d scripts on the page, %v", scripts, err)
	}
	requests := 0
	for _, e := range d.events {
		var p struct {
			DocumentURL string
			Type        string
			Entry       struct{ Source string }
		}
		if err := json.Unmarshal(e.Params, &p); err != nil {
			t.Fatalf("%s: %v", e.Method, err)
		}
		switch e.Method {
		case "Network.requestWillBeSent":
			if !at.MatchString(p.DocumentURL) {
				requests = 0
			} else if requests++; requests > 1 || p.Type != "Document" {
				t.Errorf("the page asks for more: %s", e.Params)
			}
		case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
			// What has failed to load is counted above, or was another page's; a status of 403 is no fault.
			if requests > 0 && p.Entry.Source != "network" {
				t.Errorf("the console says: %s", e.Params)
			}
		}
	}
	if requests != 1 {
		t.Errorf("%d requests for the page", requests)
	}
}

// checkPolicy puts into the page what an attacker would like to have there.
func (d *devtools) checkPolicy(t *testing.T) {
	t.Helper()
	var violated []string
	err := d.eval(`new Promise(resolve => {
		const seen = [];
		document.addEventListener('securitypolicyviolation', e => {
			seen.push(e.effectiveDirective);
			if (seen.length == 2) resolve(seen.sort());
		});
		const script = document.createElement('script');
		script.textContent = 'window.ran = true';
		const image = document.createElement('img');
		image.src = 'https://127.0.0.1/elsewhere.png';
		document.body.append(script, image);
		if (window.ran) resolve(['the script ran']);
		image.onload = image.onerror = () => setTimeout(() => resolve(seen), 1000);
	})`, &violated)
	if got := strings.Join(violated, " "); err != nil || got != "img-src script-src-elem" {
		t.Errorf("violations of the policy: %q, %v", got, err)
	}
}
