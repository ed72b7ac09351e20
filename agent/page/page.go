// SPDX-License-Identifier: Apache-2.0

// Package page owns the look of the pages that a user's browser shows: one sentence about what
// has happened, and one about what to do. Agent and client write the same. The pages load
// nothing and run nothing, and their policy lets them have no more than their own style.
package page

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"regexp"
)

var (
	//go:embed page.css
	style string
	//go:embed page.html
	text string

	page    = template.Must(template.New("page").Parse(text))
	policy  = "default-src 'none'; style-src 'sha256-" + hashOf(style) + "'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
	command = regexp.MustCompile("`([^`]*)`")
)

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Write answers with a page. Message and hint are sentences without a full stop, in which what
// stands between backquotes is a command; the hint may be empty. A status from 400 on is shown
// to be bad news.
func Write(w http.ResponseWriter, status int, title, message, hint string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = page.Execute(w, map[string]any{ // the browser may be gone: nobody is left to tell
		"Style": template.CSS(style), "Bad": status >= http.StatusBadRequest,
		"Title": title, "Message": marked(message), "Hint": marked(hint),
	})
}

// marked escapes a sentence and marks its commands.
func marked(s string) template.HTML {
	return template.HTML(command.ReplaceAllString(template.HTMLEscapeString(s), "<code>$1</code>"))
}
