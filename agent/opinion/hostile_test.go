// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whatever an engine says: only a plain yes lets anybody through.
func TestAnswers(t *testing.T) {
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tc := range map[string]struct {
		serve    http.HandlerFunc
		outcome  string
		text     string // of the refusal; empty: it is a yes
		decision string
	}{
		"yes":                {says(`{"result":true}`), OutcomeAllowed, "", ""},
		"yes, with more":     {says(`{"decision_id":"d-1","result":{"allow":true,"reason":"on call","ttl":5},"provenance":{}}`), OutcomeAllowed, "", "d-1"},
		"no":                 {says(`{"decision_id":"d-2","result":false}`), OutcomeDenied, "does not allow it", "d-2"},
		"no, with a reason":  {says(`{"decision_id":"d-3","result":{"allow":false,"reason":"not on call"}}`), OutcomeDenied, "does not allow it: not on call", "d-3"},
		"reason for eyes":    {says(`{"result":{"allow":false,"reason":"a\u001b[2Jb\nc\u202ed"}}`), OutcomeDenied, "it: a [2Jb c d", ""},
		"reason too long":    {says(`{"result":{"allow":false,"reason":"` + strings.Repeat("é", 1000) + `"}}`), OutcomeDenied, "it: " + strings.Repeat("é", maxReason/2) + "…", ""},
		"undefined":          {says(`{"decision_id":"d-4"}`), OutcomeUndefined, "undefined", "d-4"},
		"null":               {says(`{"result":null}`), OutcomeMalformed, "want the result", ""},
		"text":               {says(`{"result":"true"}`), OutcomeMalformed, "want the result", ""},
		"number":             {says(`{"result":1}`), OutcomeMalformed, "want the result", ""},
		"list":               {says(`{"result":[true]}`), OutcomeMalformed, "want the result", ""},
		"object without":     {says(`{"result":{"deny":[]}}`), OutcomeMalformed, "want the result", ""},
		"object with null":   {says(`{"result":{"allow":null}}`), OutcomeMalformed, "want the result", ""},
		"object with text":   {says(`{"result":{"allow":"true"}}`), OutcomeMalformed, "want the result", ""},
		"object with ALLOW":  {says(`{"result":{"ALLOW":true}}`), OutcomeMalformed, "want the result", ""},
		"allow twice":        {says(`{"result":{"allow":false,"allow":true}}`), OutcomeMalformed, "want the result", ""},
		"reason of no text":  {says(`{"result":{"allow":true,"reason":1}}`), OutcomeMalformed, "want the result", ""},
		"result twice":       {says(`{"result":false,"result":true}`), OutcomeMalformed, "strict JSON", ""},
		"RESULT":             {says(`{"RESULT":true}`), OutcomeUndefined, "undefined", ""},
		"RESULT beside it":   {says(`{"result":false,"RESULT":true}`), OutcomeMalformed, "strict JSON", ""},
		"decision of no use": {says(`{"decision_id":"a\nb","result":true}`), OutcomeAllowed, "", ""},
		"decision too long":  {says(`{"decision_id":"` + strings.Repeat("x", maxDecision+1) + `","result":true}`), OutcomeAllowed, "", ""},
		"nothing":            {says(``), OutcomeMalformed, "strict JSON", ""},
		"true":               {says(`true`), OutcomeMalformed, "strict JSON", ""},
		"page":               {says(`<html>result: true</html>`), OutcomeMalformed, "strict JSON", ""},
		"cut":                {says(`{"result":true`), OutcomeMalformed, "strict JSON", ""},
		"more behind":        {says(`{"result":true}{"result":false}`), OutcomeMalformed, "strict JSON", ""},
		"not UTF-8":          {says("{\"result\":true,\"x\":\"\xff\"}"), OutcomeMalformed, "strict JSON", ""},
		"deep":               {says(`{"result":` + strings.Repeat("[", 100_000)), OutcomeMalformed, "strict JSON", ""},
		"too big":            {says(`{"result":true,"x":"` + strings.Repeat("x", 2<<20) + `"}`), OutcomeMalformed, "too big", ""},
		"yes, but 500":       {answer(500, `{"result":true}`), OutcomeError, "500", ""},
		"yes, but 401":       {answer(401, `{"result":true}`), OutcomeError, "401", ""},
		"yes, but 201":       {answer(201, `{"result":true}`), OutcomeError, "201", ""},
		"no content":         {answer(204, ``), OutcomeError, "204", ""},
		"redirect to itself": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"/more", http.StatusTemporaryRedirect)
		}, OutcomeError, "redirect", ""},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, OutcomeError, "EOF", ""},
		"cut by less than said": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"result":true}`)
		}, OutcomeError, "EOF", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{}, tc.serve)
			decision, err := r.Ask(question())
			if tc.text != "" {
				mustDeny(t, err, tc.text)
			} else if err != nil {
				t.Error(err)
			}
			if decision != tc.decision {
				t.Errorf("decision %q, want %q", decision, tc.decision)
			}
			if r.outcome(tc.outcome) != 1 {
				t.Errorf("outcomes %v, want %s", r.outcomes, tc.outcome)
			}
		})
	}
}

// An engine that is silent, or drips, is given up when its time is over.
func TestTimeout(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"silent": func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Timeout: 50 * time.Millisecond, Cache: time.Hour}, serve)
			began := time.Now()
			_, err := r.Ask(question())
			mustDeny(t, err, "no answer within 50ms")
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if r.outcome(OutcomeTimeout) != 1 {
				t.Errorf("outcomes %v", r.outcomes)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"result":true}`, `{"result":{"allow":false,"reason":"x"},"decision_id":"d"}`, `{}`, `{"result":null}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := parse(body)
		if err != nil && a.allow {
			t.Error("an error lets through")
		}
		if a.allow && !strings.Contains(string(body), "true") {
			t.Error("a yes that nobody has said")
		}
		if len(a.decision) > maxDecision || len(a.reason) > maxReason+len("…") || strings.ContainsAny(a.decision+a.reason, "\x1b\n") {
			t.Errorf("texts of %q: %q, %q", body, a.decision, a.reason)
		}
	})
}
