// SPDX-License-Identifier: Apache-2.0

package main

// mutant is a promise that is taken out of the code, and the test that must notice.
type mutant struct {
	name     string
	file     string // from the root
	from, to string // from is there once
	test     []string
}

// Where a test is looked for.
var (
	inSimulation = []string{"./test/sim", "-run", "TestFive"}
	inTable      = []string{"./agent/session"}
	inZeroBytes  = []string{"./test/zero", "-batches", "1"}
	inIdentity   = []string{"./agent/identity"}
	inSignals    = []string{"./agent/signals"}
)

var mutants = []mutant{
	// The session table, and what nodes agree on.
	{"merge: an end is not taken over", "agent/session/merge.go",
		"out.Revoked = firstEnd(a.Revoked, b.Revoked)", "out.Revoked = a.Revoked", inSimulation},
	{"merge: a deadline can be later", "agent/session/merge.go",
		"out.Deadline = earlierTime(a.Deadline, b.Deadline)", "out.Deadline = max(a.Deadline, b.Deadline)", inTable},
	{"sessions of a key are ordered by clocks alone", "agent/session/takeover.go",
		"cmp.Or(cmp.Compare(e.generation, generation), ", "cmp.Or(", inTable},
	{"activity is not told", "agent/session/schedule.go",
		"if t.cfg.OnChange == nil || !e.untold || now < t.quarterLocked(e) {", "if t.cfg.OnChange == nil || e.id != (ID{}) {", inSimulation},
	{"what has ended is forgotten at once", "agent/session/lifecycle.go",
		"if e.summed && now < e.until {", "if e.summed && now < e.until && e.ended == nil {", inSimulation},
	{"what has ended leaves with its deadline", "agent/session/lifecycle.go",
		"if now < t.forgetAtLocked(e) && e.summed {", "if now < t.forgetAtLocked(e) && e.summed && e.ended == nil {", inTable},
	{"a watermark is not held against what comes later", "agent/session/shared.go",
		"} else if w, below := t.belowLocked(s); below {", "} else if w, below := t.belowLocked(s); below && w.Before < 0 {", inTable},
	{"a user whose credential has changed need not be authenticated anew", "agent/session/fresh.go",
		"return s.Identity.AuthTime.Unix() < w.Fresh", "return s.Identity.AuthTime.Unix() < -w.Fresh", inTable},
	{"no anti-entropy", "agent/cluster/sync.go",
		"err := e.round(ctx, p, limit)", "var err error", inSimulation},
	{"watermarks that were missed are not asked for", "agent/cluster/marks.go",
		"if theirs == nil {", "if theirs == nil || ours != nil {", []string{"./agent/cluster", "-run", "Watermark"}},
	{"a node serves before it knows what it missed", "agent/cluster/engine.go",
		"ready: cfg.Alone,", "ready: true,", inSimulation},
	{"what is lost is not sent again", "agent/cluster/outbox.go",
		"return min(wait, resendLast)", "return 1000 * time.Hour", inSimulation},
	{"clocks of others are taken for our own", "agent/cluster/timebase.go",
		"return session.Instant(shift(int64(at), int64(offset))), true", "return session.Instant(shift(int64(at), 0*int64(offset))), true", inSimulation},
	{"half of the nodes are a majority", "agent/cluster/partition.go",
		"2*reachable > q.now.Known", "2*reachable >= q.now.Known", []string{"./agent/cluster"}},
	{"a connection joins a session that is over", "agent/session/lifecycle.go",
		"if _, err := t.aliveLocked(e); err != nil {\n\t\treturn 0, 0, err\n\t}", "_, _ = t.aliveLocked(e)", inTable},
	{"an end is not durable", "agent/session/lifecycle.go",
		"return endings, t.saveAll(endings)", "return endings, nil", []string{"./test/e2e", "-run", "TestRestartKeepsSessionsAndEnds"}},
	{"an idle lease moves back", "agent/session/entry.go",
		"at <= e.lastActive {", "at == e.lastActive {", inTable},

	// The kernel.
	{"the gate shuts 300 ms late", "bpf/tagger_linux.go",
		"s := curfewSession{DeadlineBootNs: uint64(deadline)}", "s := curfewSession{DeadlineBootNs: uint64(deadline) + 300_000_000}", inZeroBytes},
	{"the gate is not moved with the idle lease", "bpf/tagger_linux.go",
		"s.DeadlineBootNs = uint64(deadline)\n", "_ = deadline\n", []string{"./test/e2e", "-run", "TestIdle"}},
	{"a kill leaves the gate open", "bpf/tagger_linux.go",
		"err := t.maps.Sessions.LookupAndDelete(&number, &s)", "err := t.maps.Sessions.Lookup(&number, &s)", []string{"./bpf"}},
	{"nobody sweeps for a proxy that hangs", "agent/enforcer/sweep.go",
		"if tick%sweepEvery != 0 && !s.silent.Load() {", "if tick > 0 {", []string{"./test/e2e", "-run", "TestProxyStopped"}},
	{"anybody may use the control socket", "agent/control/peer.go",
		"if p.err != nil || !slices.Contains(s.cfg.AllowUIDs, p.uid) {", "if p.err != nil || slices.Contains(s.cfg.AllowUIDs, 1<<31) {", []string{"./agent/control"}},

	// Between nodes.
	{"a node's certificate may be signed by anybody", "gossip/trust/certificate.go",
		"}); err != nil {\n\t\treturn \"\", fmt.Errorf(\"certificate of", "}); err != nil && name == \"\" {\n\t\treturn \"\", fmt.Errorf(\"certificate of", []string{"./gossip/trust"}},
	{"a node that was removed stays", "gossip/trust/view.go",
		"r.denied[id] = true\n\t\t}\n\t\tif d.Name", "r.denied[id] = false\n\t\t}\n\t\tif d.Name", []string{"./gossip/trust"}},

	// Signing in.
	{"a browser that is not signed in anew is sent back for ever", "agent/identity/fresh.go",
		"if lg.demand.afresh() {", "if lg.demand.afresh() && why == \"\" {", inIdentity},
	{"the nonce is not looked at", "agent/identity/idtoken.go",
		"!= 1 {\n\t\treturn errors.New(\"claim nonce", "== 2 {\n\t\treturn errors.New(\"claim nonce", inIdentity},
	{"a token for others too is good", "agent/identity/idtoken.go",
		"if aud != s.cfg.ClientID && !slices.Contains(s.cfg.TrustedAudiences, aud) {", "if aud == \"\" {", inIdentity},
	{"a token for another party is good", "agent/identity/idtoken.go",
		"azp != s.cfg.ClientID {", "azp == \"\" {", inIdentity},
	{"the access token need not belong to the ID token", "agent/identity/idtoken.go",
		"if tok.AccessTokenHash != \"\" {", "if len(raw) == 0 {", inIdentity},
	{"a token of another type is good", "agent/jose/header.go",
		"if slices.Contains(allowed, ", "if len(allowed) >= 0 || slices.Contains(allowed, ", []string{"./agent/jose"}},
	{"claims that differ by case are good", "agent/jose/claims.go",
		"; dup {", "; dup && other == n {", []string{"./agent/jose"}},
	{"the answer of another provider is taken", "agent/identity/provider.go",
		"if (m.sendsIss || iss != \"\") && iss != m.cfg.Issuer {", "if iss == \"?\" {", inIdentity},
	{"PKCE is left out", "agent/identity/provider.go",
		", oauth2.S256ChallengeOption(s.verifier))...)", ")...)", inIdentity},
	{"a callback in another browser is taken", "agent/identity/logins.go",
		"if lg.stage != opened || !equal(lg.browser, digestOf(cb.browser)) {\n\t\tl.cfg.Count(EventBrowserRefused)\n\t\treturn nil, errOtherBrowser", "if lg.stage != opened {\n\t\tl.cfg.Count(EventBrowserRefused)\n\t\treturn nil, errOtherBrowser", inIdentity},
	{"a one-time code is good for any key", "agent/identity/complete.go",
		"if !equal(digest(lg.key), digest(key)) {", "if key.IsZero() {", inIdentity},
	{"a one-time code is good twice", "agent/identity/complete.go",
		"l.pending.remove(lg)\n\tif l.now()", "if l.now()", inIdentity},
	{"a machine's token is good for a second key", "agent/session/credential.go",
		"|| other.key == e.key {", "|| other.key != e.key {", inTable},

	// The provider's word.
	{"an ID token ends sessions", "agent/identity/logouttoken.go",
		"if _, has := c[\"nonce\"]; has {", "if _, has := c[\"nonce\"]; has && issuer == \"\" {", inIdentity},
	{"a logout token is good twice", "agent/identity/once.go",
		"; known {\n\t\treturn false", "; known && name == \"\" {\n\t\treturn false", inIdentity},
	{"a provider that was taken out signs people in", "agent/identity/provider.go",
		"if p.takenOut() {", "if p == nil {", inIdentity},
	{"a logout is lost that comes while keys may not be fetched", "agent/identity/backchannel.go",
		"if errors.Is(err, jose.ErrKeysLater) && l.limit.Admit(from, time.Now()) {", "if errors.Is(err, jose.ErrKeysLater) && p == nil {", inIdentity},
	{"an answer of the policy engine from before a change counts", "agent/opinion/cache.go",
		" || e.asked < since) {", " || e.asked < since && since < 0) {", []string{"./agent/opinion"}},
	{"a connection on its way is not asked about again", "agent/gate.go",
		"if g.stale(c) {", "if c == nil {", []string{"./test/e2e", "-run", "TestReloadWhileAConnectionIsOnItsWay"}},
	{"tokens are kept when their session ends", "agent/identity/vault.go",
		"if g, ok := v.take(id); ok {\n\t\tv.enqueue(g)", "if g, ok := v.take(id); !ok {\n\t\tv.enqueue(g)", inIdentity},
	{"a security event may be of any age", "agent/signals/set.go",
		"case now.Sub(iat) > s.maxAge:", "case s.maxAge < 0:", inSignals},
	{"a security event may be a login token", "agent/signals/set.go",
		"Types: []string{jose.TypeSecurity},", "Types: []string{jose.TypeSecurity, jose.TypeJWT, jose.Untyped},", inSignals},
	{"an event acts twice", "agent/signals/replays.go",
		"; known {\n\t\tr.mu.Unlock()\n\t\treturn true,", "; known && jti == \"\" {\n\t\tr.mu.Unlock()\n\t\treturn true,", inSignals},
	{"a silent policy engine allows", "agent/opinion/engines.go",
		"case err != nil:\n\t\treturn session.Refuse(session.ReasonDenied, fmt.Errorf(\"the policy engine gave no decision: %w\", err))", "case err != nil:\n\t\treturn nil", []string{"./agent/opinion"}},
}
