// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
)

// A session ends when the provider's last word is too old, and only one about which it is asked at all.
func TestOverdue(t *testing.T) {
	clock := hostclock.Clock{}
	base := cluster.NewTimebase(session.Origin{Node: "here", Boot: 1}, clock, nil)
	table, err := session.NewTable(session.TableConfig{Clock: clock, Timebase: base})
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]time.Duration{"https://idp": time.Minute}
	at := session.OriginTime(clock.Boot().Add(-61 * time.Second))
	for i, s := range []session.Session{
		{Identity: session.Identity{Issuer: "https://idp", Subject: "asked about"}, Validated: 1, Born: at},
		{Identity: session.Identity{Issuer: "https://idp", Subject: "just asked about"}, Validated: 1},
		{Identity: session.Identity{Issuer: "https://idp", Subject: "not asked about"}, Born: at},
		{Identity: session.Identity{Issuer: "https://other", Subject: "of another provider"}, Validated: 1, Born: at},
	} {
		s.Key = session.Key{byte(i + 1)}
		if _, err := table.Create(s, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if list := overdueOf(table, base, clock.Boot(), limits); len(list) != 0 {
		t.Errorf("at the limit, the one that asks has its time: %v", list)
	}
	list := overdueOf(table, base, clock.Boot().Add(3*time.Second), limits)
	if len(list) != 1 || list[0].Identity.Subject != "asked about" {
		t.Errorf("overdue: %v", list)
	}
}
