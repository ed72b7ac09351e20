// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWrite: what a page says may come from others, and stays text, beside commands and in them.
func TestWrite(t *testing.T) {
	for status, mark := range map[int]string{200: "<main>", 403: `<main class="bad">`} {
		w := httptest.NewRecorder()
		Write(w, status, "<b>title", "<b>message & `<i>command`", "run `curfew login` again, `or")
		body := w.Body.String()
		for _, want := range []string{mark, "<h1>&lt;b&gt;title</h1>", "<p>&lt;b&gt;message &amp; <code>&lt;i&gt;command</code>.</p>",
			"<p>run <code>curfew login</code> again, `or.</p>"} {
			if !strings.Contains(body, want) {
				t.Errorf("%d: no %q in\n%s", status, want, body)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); w.Code != status || strings.Contains(csp, "unsafe") || !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("status %d, policy %q", w.Code, csp)
		}
		if _, rest, _ := strings.Cut(body, "<style>"); !strings.HasPrefix(rest, style+"</style>") {
			t.Errorf("the policy is of another style than the page has:\n%s", body)
		}
	}
	w := httptest.NewRecorder()
	if Write(w, 200, "t", "m", ""); strings.Count(w.Body.String(), "<p>") != 1 {
		t.Errorf("an empty hint is shown:\n%s", w.Body)
	}
}
