// SPDX-License-Identifier: Apache-2.0
//
// What nodes of a cluster know of sessions, and what they promise: a model for Spin.
//
// model_test.go verifies it, then breaks it in many ways (-D) and demands that Spin notices.
//
//	here                 there
//	merge                session.Merge, and Table.Merge for what this node had not heard of
//	create, supersede    Table.Create with Session.Supersedes; takeOverLocked, supersededBy
//	revoke               Table.End, EndAll
//	raise                Table.Raise
//	shorten              nothing yet: an earlier deadline in a record that Table.Merge gets
//	tick                 Table.Run: deadlines fire
//	forget               Table.lookAtEndedLocked: the end of the retention
//	persist              store.Save, and the ACK of agent/cluster, or the answer to who killed, after it
//	crash, restart       store.Load; until "synced" the agent refuses everybody
//	sent, RECEIVE        STATE messages of agent/cluster, its retransmissions and gossip
//	Link                 its anti-entropy: exchange between two nodes that run, recover after a restart
//
// The network is the set of all messages that were ever sent: whatever is in it may arrive anywhere, in any
// order, at any time, again and again, or never. What a node knows is in it at once, durable or not.
//
// Time is 0..END. "now" is what the clock that lags most reads; any other reads up to SKEW more. A node
// accepts as the one that lags most, and forgets as the one that is ahead: so nothing is safer than it is.
//
// Left out, as it makes no difference to what is asked here: idle timeouts (an idle end is a revocation);
// who, why and when of an end; digests (they only find out what differs); the origins of clocks; trust;
// a second watermark. The store is written as a whole. The answer to a request takes no time: one that did
// would say what the peer could have said before. Session 0 is created on node 0, as nodes are all
// alike; session 1, if there is one, supersedes it. For what must never happen, messages that do not arrive are
// partition enough. For what must happen (LIVENESS) links are cut and healed, and time stands still: the
// deadline would end the session before word of its end does.
//
// Promised:
//	1  once a node has acknowledged a revocation, the session is never alive there again
//	2  nor is it after the earliest deadline that the node has acknowledged
//	3  a node that restarted accepts nobody before a round of anti-entropy, and nobody then who
//	   was revoked at its peer
//	4  what one node has acknowledged reaches every node that stays connected, through others too; and
//	   a node that restarted accepts again
//	5  with KILL_REACHES_SUPERSEDED: once a node has acknowledged the end of a session, the one that it
//	   superseded is not alive there either. That holds with TOMBSTONE_NAMES_SUPERSEDED only: a tombstone
//	   without Record.Supersedes ends nothing where word of the new session comes after it.

#ifndef NODES
#define NODES 3
#endif
#ifndef SESSIONS
#define SESSIONS 1
#endif
#define LINKS (NODES * (NODES - 1) / 2) // two nodes or three: each link joins a node and the next

#define SKEW      1 // how much clocks differ
#define RETENTION 1 // how long an ended session is remembered after its deadline; at least what SHORTEN takes
#define LONGEST   2 // the latest deadline
#define END       3 // of time
#define INFINITY  4

// What a node knows of a session. The order matters: see over and dead.
#define NONE      0
#define LIVE      1
#define ENDED     2 // its deadline has passed
#define REVOKED   3
#define TOMBSTONE 4 // revoked, and nothing else is known of it

#define over(state) ((state) >= ENDED)
#define dead(state) ((state) >= REVOKED)
#define at(node, session) ((node) * SESSIONS + (session))
#define earlier(a, b) ((a) < (b) -> (a) : (b))

// ---- Mutants: each macro breaks one rule.

#ifdef GC_BEFORE_DEADLINE
#define FORGET_AT(deadline) 0
#else
#ifdef GC_WITHOUT_RETENTION
#define FORGET_AT(deadline) ((deadline) + SKEW)
#else
#ifdef GC_AT_DEADLINE
#define FORGET_AT(deadline) (deadline)
#else
#define FORGET_AT(deadline) ((deadline) + SKEW + RETENTION)
#endif
#endif
#endif

#ifdef CREATE_AFTER_DEADLINE
#define IN_TIME(deadline) true
#else
#define IN_TIME(deadline) (now < (deadline))
#endif

// Until when word of an end is taken of a session that is not known. Its deadline will do (Table.Merge)
// as long as every record has the same.
#if defined(SHORTEN) && !defined(TOMBSTONE_REFUSED_AT_DEADLINE)
#define TOMBSTONE_UNTIL(deadline) ((deadline) + RETENTION)
#else
#define TOMBSTONE_UNTIL(deadline) (deadline)
#endif

#ifdef DEADLINE_MAX
#define merged(a, b) ((a) > (b) -> (a) : (b))
#else
#define merged(a, b) earlier(a, b)
#endif

#ifdef LAST_WRITER_WINS
#define merged_state(ours, theirs) (theirs)
#else
#define merged_state(ours, theirs) (dead(ours) || dead(theirs) -> (ours == TOMBSTONE && theirs == TOMBSTONE -> TOMBSTONE : REVOKED) : ours)
#endif

#ifdef ONLY_SYNCED_ANSWER
#define answers(node) synced[node]
#else
#define answers(node) true
#endif

// ---- State.

byte now;
byte sent[SESSIONS];      // messages: see CREATE and REVOKE
bit watermark_sent;

byte state[NODES * SESSIONS], deadline[NODES * SESSIONS]; // in memory
bit watermark[NODES];     // of session 0's user, after its creation
byte stored_state[NODES * SESSIONS], stored_deadline[NODES * SESSIONS];
bit stored_watermark[NODES];

bit up[NODES] = true, synced[NODES] = true;
bit cut[LINKS];

// What no node knows; properties speak of it.
byte promised[NODES * SESSIONS] = INFINITY; // by a node that has acknowledged: from then on the session is not alive; 0: never
bit owes[NODES];                 // restarted, and has not heard all that a peer knows

hidden byte j, k, q, was_state, was_deadline; // scratch: of no meaning between two events

#define CREATE(deadline) (1 << ((deadline) - 1))
#define REVOKE(deadline) (4 << ((deadline) - 1))

#define alive(node, session) (up[node] && synced[node] && state[at(node, session)] == LIVE)

inline check() {
	for (k : 0 .. NODES * SESSIONS - 1) {
		assert(!alive(k / SESSIONS, k % SESSIONS) || promised[k] != 0);      // 1, 5
		assert(!alive(k / SESSIONS, k % SESSIONS) || now < promised[k]);     // 2
		assert(!alive(k / SESSIONS, k % SESSIONS) || now < LONGEST);         // 2, whatever was acknowledged
		assert(!(up[k / SESSIONS] && synced[k / SESSIONS] && owes[k / SESSIONS])) // 3
	}
	skip // a d_step must not end in a loop
}

// ---- What a node does with what it knows. All of it runs inside of d_step.

inline acknowledge(n) {
	for (k : at(n, 0) .. at(n, SESSIONS - 1)) {
		if
		:: dead(state[k]) -> promised[k] = 0
		:: !dead(state[k]) && state[k] != NONE -> promised[k] = earlier(promised[k], deadline[k])
		:: else
		fi
	}
	if
	:: watermark[n] -> promised[at(n, 0)] = 0
	:: else
	fi
#if SESSIONS == 2
	if
	:: state[at(n, 1)] != NONE && state[at(n, 1)] != TOMBSTONE -> promised[at(n, 0)] = 0
	:: else
	fi
#ifdef KILL_REACHES_SUPERSEDED
	if
	:: dead(state[at(n, 1)]) -> promised[at(n, 0)] = 0
	:: else
	fi
#endif
#endif
}

// write makes durable what node n knows.
inline write(n) {
#ifdef NOT_DURABLE
	skip
#else
	for (k : at(n, 0) .. at(n, SESSIONS - 1)) {
		stored_state[k] = (state[k] == ENDED -> LIVE : state[k]); // a restart finds that out by itself
		stored_deadline[k] = deadline[k]
	}
	stored_watermark[n] = watermark[n]
#endif
}

// settle draws the conclusions from news on node n, and passes them on.
inline settle(n) {
#if SESSIONS == 2
	if
	:: state[at(n, 1)] != NONE && state[at(n, 1)] != TOMBSTONE && state[at(n, 0)] == LIVE -> state[at(n, 0)] = REVOKED
	:: else
	fi;
#endif
	if
	:: watermark[n] && state[at(n, 0)] == LIVE -> state[at(n, 0)] = REVOKED
	:: else
	fi;
	for (k : 0 .. SESSIONS - 1) {
		if
		:: state[at(n, k)] == LIVE -> sent[k] = sent[k] | CREATE(deadline[at(n, k)])
		:: dead(state[at(n, k)]) -> sent[k] = sent[k] | REVOKE(deadline[at(n, k)])
		:: else
		fi
	}
#ifdef ACKNOWLEDGE_BEFORE_DURABLE
	acknowledge(n)
#endif
}

// merge takes over what another node says of session s.
inline merge(n, s, its_state, its_deadline) {
	q = at(n, s);
	if
	:: its_state == NONE
	:: its_state != NONE && state[q] == NONE ->
		if
		:: dead(its_state) && now < TOMBSTONE_UNTIL(its_deadline) ->
			state[q] = its_state;
			deadline[q] = its_deadline
		:: !dead(its_state) && IN_TIME(its_deadline) ->
			state[q] = LIVE;
			deadline[q] = its_deadline
		:: else
		fi
	:: its_state != NONE && state[q] != NONE ->
		state[q] = merged_state(state[q], its_state);
		deadline[q] = merged(deadline[q], its_deadline);
		if
		:: state[q] == LIVE && deadline[q] <= now -> state[q] = ENDED
		:: else
		fi
	fi
}

#define differ(a, b) (watermark[a] != watermark[b] || differs(a, b, 0) || differs(a, b, SESSIONS - 1))
#define differs(a, b, s) (state[at(a, s)] != state[at(b, s)] || deadline[at(a, s)] != deadline[at(b, s)])

// clear loses what is in memory.
inline clear(n) {
	for (k : at(n, 0) .. at(n, SESSIONS - 1)) {
		state[k] = NONE;
		deadline[k] = 0
	}
	watermark[n] = false
}

// acknowledge_one is what a node may say at once of a message that told it nothing new, if that is durable.
inline acknowledge_one(n, s, its_state, its_deadline) {
	if
	:: dead(its_state) -> promised[at(n, s)] = 0
	:: else -> promised[at(n, s)] = earlier(promised[at(n, s)], its_deadline)
	fi
}

// ---- Events. Each is atomic.

// Only of a session that superseded another does it matter how much of it a message tells.
#if SESSIONS == 2 && !defined(TOMBSTONE_NAMES_SUPERSEDED)
#define end_of(session) ((session) == 1 -> TOMBSTONE : REVOKED)
#else
#define end_of(session) REVOKED
#endif

inline receive(n, s, its_state, its_deadline) {
	was_state = state[at(n, s)];
	was_deadline = deadline[at(n, s)];
	merge(n, s, its_state, its_deadline);
	if
	:: state[at(n, s)] != was_state || deadline[at(n, s)] != was_deadline -> settle(n)
	:: else ->
		if
		:: state[at(n, s)] == NONE && dead(its_state) -> acknowledge_one(n, s, its_state, its_deadline) // nothing to keep
#ifdef DUPLICATE_ACKNOWLEDGED_AT_ONCE
		:: state[at(n, s)] != NONE -> acknowledge_one(n, s, its_state, its_deadline)
#endif
		:: else
		fi
	fi;
	check()
}

inline receive_watermark(n) {
	watermark[n] = true;
	settle(n);
	check()
}

inline create(n, s, d) {
	state[at(n, s)] = LIVE;
	deadline[at(n, s)] = d;
	settle(n);
	check()
}

inline revoke(n, s) {
	state[at(n, s)] = REVOKED;
	settle(n);
	check()
}

inline shorten(n, s, d) {
	deadline[at(n, s)] = d;
	settle(n);
	check()
}

inline forget(n, s) {
	state[at(n, s)] = NONE;
	deadline[at(n, s)] = 0;
	check()
}

// persist is the end of a transaction; whoever waits for it is answered.
inline persist(n) {
	write(n);
	acknowledge(n);
	check()
}

inline crash(n) {
	clear(n);
	up[n] = false;
	synced[n] = false
}

inline restart(n) {
	for (k : at(n, 0) .. at(n, SESSIONS - 1)) {
		state[k] = (stored_state[k] == LIVE && stored_deadline[k] <= now -> ENDED : stored_state[k]);
		deadline[k] = stored_deadline[k]
	}
	watermark[n] = stored_watermark[n];
	up[n] = true;
	owes[n] = true;
#ifdef RESTART_WITHOUT_ANTI_ENTROPY
	synced[n] = true;
#endif
	check()
}

// recover is the first round of anti-entropy of node n after a restart: what peer answers is merged and
// durable, and the node accepts again.
inline recover(n, peer) {
	for (j : 0 .. SESSIONS - 1) {
		merge(n, j, state[at(peer, j)], deadline[at(peer, j)])
	}
	watermark[n] = watermark[n] || watermark[peer];
	settle(n);
	write(n);
	acknowledge(n);
	for (j : 0 .. SESSIONS - 1) {
		promised[at(n, j)] = (dead(state[at(peer, j)]) -> 0 : promised[at(n, j)])
	}
	synced[n] = true;
	owes[n] = false;
	check()
}

// exchange is anti-entropy between two nodes that run.
inline exchange(a, b) {
	for (j : 0 .. SESSIONS - 1) {
		merge(a, j, state[at(b, j)], deadline[at(b, j)]);
		merge(b, j, state[at(a, j)], deadline[at(a, j)])
	}
	watermark[a] = watermark[a] || watermark[b];
	watermark[b] = watermark[a];
	settle(a);
	settle(b);
	check()
}

inline tick() {
	now++;
	for (k : 0 .. NODES * SESSIONS - 1) {
		state[k] = (state[k] == LIVE && deadline[k] <= now -> ENDED : state[k])
	}
	check()
}

// ---- Processes.

#define unsaved(n, s) (stored_state[at(n, s)] != (state[at(n, s)] == ENDED -> LIVE : state[at(n, s)]) || stored_deadline[at(n, s)] != deadline[at(n, s)])

#define OF_SESSION(s) \
	:: d_step { up[me] && (sent[s] & CREATE(1)) -> receive(me, s, LIVE, 1) } \
	:: d_step { up[me] && (sent[s] & CREATE(2)) -> receive(me, s, LIVE, 2) } \
	:: d_step { up[me] && (sent[s] & REVOKE(1)) -> receive(me, s, end_of(s), 1) } \
	:: d_step { up[me] && (sent[s] & REVOKE(2)) -> receive(me, s, end_of(s), 2) } \
	:: d_step { up[me] && state[at(me, s)] == LIVE -> revoke(me, s) } \
	:: d_step { up[me] && over(state[at(me, s)]) && now + SKEW >= FORGET_AT(deadline[at(me, s)]) -> forget(me, s) } \
	:: d_step { up[me] && unsaved(me, s) -> persist(me) }

active [NODES] proctype Node() {
	byte me = _pid;
	do
	:: d_step { me == 0 && up[0] && synced[0] && !sent[0] && now < LONGEST -> create(0, 0, LONGEST) }
	OF_SESSION(0)
#if SESSIONS == 2
	:: d_step { up[me] && synced[me] && state[at(me, 0)] == LIVE && !sent[1] && now < 1 -> create(me, 1, 1) }
	:: d_step { up[me] && synced[me] && state[at(me, 0)] == LIVE && !sent[1] && now < 2 -> create(me, 1, 2) }
	OF_SESSION(1)
#endif
#ifdef SHORTEN
	:: d_step { up[me] && state[at(me, 0)] == LIVE && deadline[at(me, 0)] > 1 && now < 1 -> shorten(me, 0, 1) }
#endif
#ifdef WATERMARK
	:: d_step { up[me] && sent[0] && !watermark_sent -> watermark_sent = true; receive_watermark(me) }
	:: d_step { up[me] && watermark_sent && !watermark[me] -> receive_watermark(me) }
	:: d_step { up[me] && watermark[me] != stored_watermark[me] -> persist(me) }
#endif
	:: d_step { up[me] -> crash(me) }
	:: d_step { !up[me] -> restart(me) }
#ifdef LIVENESS
	:: now == 0 // as in Partition: a node need not crash
#endif
	od
}

// Link joins two nodes.
active [LINKS] proctype Link() {
	byte l = _pid - NODES, a = _pid - NODES, b = (_pid - NODES + 1) % NODES;
	do
#ifndef NO_ANTI_ENTROPY
	:: d_step { !cut[l] && up[a] && up[b] && synced[a] && synced[b] && differ(a, b) -> exchange(a, b) }
#endif
	:: d_step { !cut[l] && up[a] && up[b] && !synced[a] && answers(b) -> recover(a, b) }
	:: d_step { !cut[l] && up[a] && up[b] && !synced[b] && answers(a) -> recover(b, a) }
	od
}

#ifndef LIVENESS

active proctype Clock() {
	do
	:: d_step { now < END -> tick() }
	od
}

#else

active [LINKS] proctype Partition() {
	byte l = _pid - NODES - LINKS;
	do
	:: cut[l] = !cut[l]
	:: now == 0 // always so: fairness wants a step of every process, and must not make links fail for ever
	od
}

// Two of three links stay.
#define together (up[0] && up[1] && up[2] && !cut[0] && !cut[1])

ltl reaches { (<> (promised[0] == 0) && <>[] together) -> <>[] dead(state[2]) }
ltl returns { <>[] together -> <>[] (synced[0] && synced[1] && synced[2]) }

#endif
