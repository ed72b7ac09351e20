// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// register is a session table of one session, and a disk.
type register struct {
	mu    sync.Mutex
	who   session.Identity
	ended []session.End
	valid int
	disk  map[session.ID][]byte
}

func (d *register) Create(context.Context, NewSession) (session.Session, error) { panic("not here") }
func (d *register) ByKey(session.Key) (session.Session, error)                  { panic("not here") }
func (d *register) End(_ context.Context, _ session.ID, end session.End) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = append(d.ended, end)
	return nil
}
func (d *register) Validate(_ session.ID, who session.Identity) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.who, d.valid = who, d.valid+1
	return nil
}
func (d *register) Identity(session.ID) (session.Identity, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.who, len(d.ended) == 0
}
func (d *register) PutTokens(id session.ID, sealed []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disk[id] = sealed
	return nil
}
func (d *register) DeleteTokensSoon(id session.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.disk, id)
}
func (d *register) LoadTokens() (map[session.ID][]byte, error) { return d.disk, nil }

// refreshed is a provider that answers refreshes, a session that it began, and who asks about it.
func refreshed(t *testing.T, answer http.HandlerFunc, change func(*Config)) (*hostile, *register, *Revalidator) {
	t.Helper()
	h := newHostile(t)
	h.token = answer
	p := h.provider(t, change)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	d := &register{who: session.Identity{Issuer: h.URL, Subject: "alice", Groups: []string{"dba"}, ACR: "2"}, disk: map[session.ID][]byte{}}
	v := NewVault(log, nil)
	providers := providersOf(p)
	if _, err := v.Keep(make([]byte, SealKeyLen), d, providers, all); err != nil {
		t.Fatal(err)
	}
	first := h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, h.goodClaims()))
	v.Put(session.ID{1}, p, Tokens{Refresh: []byte("refresh-token-0"), Access: []byte("access-token-0"), IDToken: []byte(first)})
	return h, d, &Revalidator{Providers: providers, Vault: v, Sessions: d, Validator: d, Log: log, Count: func(string) {}}
}

func all(session.ID) bool { return true }

func writeTokens(w http.ResponseWriter, n int, idToken string) {
	more := ""
	if idToken != "" {
		more = fmt.Sprintf(`,"id_token":%q`, idToken)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"access-token-%d","token_type":"Bearer","refresh_token":"refresh-token-%d"%s}`, n, n, more)
}

// A provider that stands by a session says what it says of the user now; the token that it gives instead of the last one is
// used from then on, after a restart, too.
func TestRevalidation(t *testing.T) {
	var h *hostile
	var mu sync.Mutex
	var used []string
	h, d, r := refreshed(t, func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		used = append(used, req.PostFormValue("refresh_token"))
		claims := h.goodClaims()
		claims["groups"] = []string{"dba", fmt.Sprint("g", len(used))}
		writeTokens(w, len(used), h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, claims)))
	}, nil)
	for range 2 {
		if n := r.Ask(t.Context(), all); n != 1 {
			t.Fatalf("%d sessions asked about", n)
		}
	}
	again := NewVault(r.Log, nil) // as after a restart
	if _, err := again.Keep(make([]byte, SealKeyLen), d, r.Providers, all); err != nil {
		t.Fatal(err)
	}
	r.Vault = again
	r.Ask(t.Context(), all)
	if want := []string{"refresh-token-0", "refresh-token-1", "refresh-token-2"}; !slices.Equal(used, want) {
		t.Errorf("used %v, want %v", used, want)
	}
	if len(d.ended) != 0 || d.valid != 3 || !slices.Equal(d.who.Groups, []string{"dba", "g3"}) || d.who.ACR != "2" {
		t.Errorf("ended %v, validated %d times, %+v", d.ended, d.valid, d.who)
	}
	for id, sealed := range d.disk {
		if bytes.Contains(sealed, []byte("token")) {
			t.Errorf("the disk has the tokens of %v in the clear", id)
		}
	}
	stolen := NewVault(r.Log, nil) // the disk without the key
	_, _ = stolen.Keep(bytes.Repeat([]byte{7}, SealKeyLen), d, r.Providers, all)
	if n := len(stolen.held); n != 0 {
		t.Errorf("%d grants opened with another key", n)
	}
}

// What of a provider's answers ends a session, and what is an outage, which does so only when its grace is over.
func TestRevalidationOutcomes(t *testing.T) {
	const ends, outage, stands = "ends", "outage", "stands"
	idToken := func(h *hostile, t *testing.T, change func(map[string]any)) string {
		claims := h.goodClaims()
		change(claims)
		return h.key.Sign(t, map[string]any{"alg": "RS256", "kid": "k"}, encodeJSON(t, claims))
	}
	say := func(status int, body string) func(*hostile, *testing.T, http.ResponseWriter) {
		return func(_ *hostile, _ *testing.T, w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	give := func(change func(map[string]any)) func(*hostile, *testing.T, http.ResponseWriter) {
		return func(h *hostile, t *testing.T, w http.ResponseWriter) { writeTokens(w, 1, idToken(h, t, change)) }
	}
	for name, tc := range map[string]struct {
		answer func(*hostile, *testing.T, http.ResponseWriter)
		want   string
	}{
		"it stands by it":               {give(func(map[string]any) {}), stands},
		"no nonce, as is usual":         {give(func(c map[string]any) { delete(c, "nonce") }), stands},
		"no ID token and no userinfo":   {func(_ *hostile, _ *testing.T, w http.ResponseWriter) { writeTokens(w, 1, "") }, stands},
		"invalid_grant":                 {say(400, `{"error":"invalid_grant"}`), ends},
		"invalid_grant with status 200": {say(200, `{"error":"invalid_grant"}`), ends},
		"invalid_client":                {say(401, `{"error":"invalid_client"}`), outage}, // our registration, not the user
		"server error":                  {say(500, `{"error":"server_error"}`), outage},
		"unavailable":                   {say(503, "down for maintenance"), outage},
		"not JSON":                      {say(200, "<html>"), outage},
		"a redirect": {func(_ *hostile, _ *testing.T, w http.ResponseWriter) {
			w.Header().Set("Location", "https://else.example")
			w.WriteHeader(302)
		}, outage},
		"eight megabytes":                {say(200, `{"access_token":"`+string(bytes.Repeat([]byte("a"), 8<<20))+`"}`), outage},
		"an ID token of somebody else":   {give(func(c map[string]any) { c["sub"] = "mallory" }), outage},
		"an ID token of another issuer":  {give(func(c map[string]any) { c["iss"] = "https://else.example" }), outage},
		"an ID token for another client": {give(func(c map[string]any) { c["aud"] = "them" }), outage},
		"another nonce":                  {give(func(c map[string]any) { c["nonce"] = "another" }), outage},
		"an expired ID token":            {give(func(c map[string]any) { c["exp"] = time.Now().Unix() - 5 }), outage},
	} {
		t.Run(name, func(t *testing.T) {
			var h *hostile
			h, d, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) { tc.answer(h, t, w) },
				func(c *Config) { c.Revalidation = Revalidation{Every: time.Minute, Grace: time.Hour} })
			r.Ask(t.Context(), all)
			switch tc.want {
			case stands:
				if d.valid != 1 || len(d.ended) != 0 {
					t.Errorf("validated %d times, ended %v", d.valid, d.ended)
				}
			case ends:
				if d.valid != 0 || len(d.ended) != 1 || d.ended[0].Reason != session.ReasonProvider {
					t.Errorf("validated %d times, ended %v", d.valid, d.ended)
				}
			case outage:
				if d.valid != 0 || len(d.ended) != 0 {
					t.Errorf("within the grace: validated %d times, ended %v", d.valid, d.ended)
				}
				g := r.Vault.held[session.ID{1}]
				g.asked = time.Now().Add(-2 * time.Hour)
				r.Vault.held[session.ID{1}] = g
				r.Ask(t.Context(), all)
				if len(d.ended) != 1 || d.ended[0].Reason != session.ReasonUnvalidated {
					t.Errorf("after the grace: ended %v", d.ended)
				}
			}
		})
	}
}

// One that is asked about is not asked about twice at once: a provider takes a second use of a token for theft. A session
// that ends meanwhile has its new tokens revoked, too.
func TestRevalidationIsSingleFlight(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	h, d, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		writeTokens(w, 1, "")
	}, nil)
	done := make(chan int)
	go func() { done <- r.Ask(t.Context(), all) }()
	<-asked
	if n := r.Ask(t.Context(), all); n != 0 {
		t.Errorf("asked about %d sessions a second time", n)
	}
	r.Vault.EndLater(session.ID{1})
	close(answer)
	<-done
	ctx, cancel := context.WithCancel(t.Context())
	var vault sync.WaitGroup
	vault.Go(func() { _ = r.Vault.Run(ctx) })
	for deadline := time.Now().Add(10 * time.Second); h.revoked.Load() < 4 && time.Now().Before(deadline); { // two tokens, old and new
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	vault.Wait()
	if n := h.revoked.Load(); n != 4 || len(d.disk) != 0 {
		t.Errorf("%d tokens revoked, %d left on the disk", n, len(d.disk))
	}
}

// TestAgentStopsWhileItAsks keeps out an agent that loses the token that it is just being given: after a restart it used the one
// from before, which the provider took for theft.
func TestAgentStopsWhileItAsks(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	h, d, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		writeTokens(w, 1, "")
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() { defer close(stopped); _ = r.Vault.Run(ctx) }()
	go func() { defer close(done); r.Ask(ctx, all) }()
	<-asked
	cancel()
	<-stopped
	close(answer)
	<-done
	if n := len(r.Vault.held) + r.Vault.toRevoke(); n != 0 || h.revoked.Load() != 0 || len(d.ended) != 0 {
		t.Errorf("%d grants left in memory, %d tokens revoked, ended %v", n, h.revoked.Load(), d.ended)
	}
	again := NewVault(r.Log, nil)
	if _, err := again.Keep(make([]byte, SealKeyLen), d, r.Providers, all); err != nil {
		t.Fatal(err)
	}
	if g := again.held[session.ID{1}]; string(g.tokens.Refresh) != "refresh-token-1" {
		t.Errorf("the disk has %q", g.tokens.Refresh)
	}
}

// TestAgentStopsWhileNobodyAnswers: it does not wait for long.
func TestAgentStopsWhileNobodyAnswers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asking, free := heardOut(ctx)
	defer free()
	cancel()
	if asking.Err() != nil {
		t.Error("the answer is not waited for")
	}
	select {
	case <-asking.Done():
	case <-time.After(20 * time.Second):
		t.Error("it is waited for in vain")
	}
}

func TestOverdue(t *testing.T) {
	const every, grace = 10 * time.Minute, time.Hour
	for r, want := range map[Revalidation]time.Duration{{every, grace}: every + grace, {every, 0}: 0, {0, grace}: 0, {}: 0} {
		if got := r.Overdue(); got != want {
			t.Errorf("%+v: %v, want %v", r, got, want)
		}
	}
	now := time.Now()
	for name, tc := range map[string]struct {
		r        Revalidation
		asked    time.Duration // ago
		failures int
		want     time.Duration // from now
	}{
		"first":                   {Revalidation{every, grace}, every, 0, 30 * time.Second},
		"third":                   {Revalidation{every, grace}, every, 2, 2 * time.Minute},
		"no longer than usual":    {Revalidation{every, grace}, every, 60, every},
		"when the grace is over":  {Revalidation{every, grace}, every + grace - time.Second, 9, time.Second},
		"without an end":          {Revalidation{every, 0}, 100 * time.Hour, 9, every},
		"after the end, as usual": {Revalidation{every, grace}, 100 * time.Hour, 0, 30 * time.Second},
	} {
		if got := tc.r.retry(now, now.Add(-tc.asked), tc.failures).Sub(now); got != tc.want {
			t.Errorf("%s: in %v, want %v", name, got, tc.want)
		}
	}
}

// Who is told that something has changed while the provider is being asked does not take that answer for one to it: the
// provider may have looked before. By then the token that it gave is on the disk.
func TestRevalidationOnceMore(t *testing.T) {
	asked, answer := make(chan string), make(chan struct{})
	var n atomic.Int64
	_, d, r := refreshed(t, func(w http.ResponseWriter, req *http.Request) {
		asked <- req.PostFormValue("refresh_token")
		<-answer
		writeTokens(w, int(n.Add(1)), "")
	}, nil)
	before := d.disk[session.ID{1}]
	done := make(chan int)
	go func() { done <- r.Ask(t.Context(), all) }()
	<-asked
	for range 3 {
		r.Ask(t.Context(), all)
	}
	answer <- struct{}{}
	if token := <-asked; token != "refresh-token-1" {
		t.Errorf("asked once more with %q", token)
	}
	d.mu.Lock()
	if bytes.Equal(d.disk[session.ID{1}], before) {
		t.Error("the new token is used, and is not on the disk")
	}
	d.mu.Unlock()
	answer <- struct{}{}
	<-done
	if n := n.Load(); n != 2 || d.valid != 2 || r.Vault.held[session.ID{1}].asking {
		t.Errorf("asked %d times, validated %d times", n, d.valid)
	}
}
