//! Mistakes that a person could make in the client session, each with the named vector that finds it. The same
//! mistakes in TypeScript are in `clients/typescript/tests/session/planted.mjs`.

/// One mistake: in a file of `crates/tidegate-protocol/src/client`, the text `of`, which stands there once, becomes
/// `to`.
pub struct Bug {
    /// The mistake.
    pub name: &'static str,
    /// The file.
    pub file: &'static str,
    /// What is right.
    pub of: &'static str,
    /// What is wrong.
    pub to: &'static str,
    /// The name of a vector in `spec/vectors` that must fail.
    pub red: &'static str,
}

/// All of them.
pub const BUGS: &[Bug] = &[
    Bug {
        name: "the cursor is taken from hello.head",
        file: "session/frames.rs",
        of: "        s.cursor = Some(cursor);\n        s.phase = Phase::Live;\n",
        to: "        s.cursor = Some(Cursor { seq: frame.whole(\"head\").unwrap_or(0), ..cursor });\n        s.phase = Phase::Live;\n",
        red: "hello.head is not a position",
    },
    Bug {
        name: "a gap is taken after the comparison",
        file: "continuity.rs",
        of: "    if reason == GapReason::Epoch.name() {",
        to: "    if to.seq <= cursor.seq {\n        return AfterGap::Known(cursor.clone());\n    }\n    if reason == GapReason::Epoch.name() {",
        red: "epoch, lower: the log counts anew",
    },
    Bug {
        name: "keys are never forgotten",
        file: "session/delivery.rs",
        of: "now.saturating_sub(generation.born) < DEDUP_MS + GENERATION_MS",
        to: "now >= generation.born",
        red: "keys are forgotten after five to six minutes",
    },
    Bug {
        name: "dedup goes on for ever",
        file: "session/delivery.rs",
        of: "now < s.dedup_until",
        to: "s.dedup_until > 0",
        red: "five minutes after the gap the cursor alone decides again",
    },
    Bug {
        name: "a late frame is obeyed",
        file: "session/frames.rs",
        of: "if self.state.connection != Some(g) {",
        to: "if g > self.state.generation {",
        red: "an old connection beside the next one, which is live",
    },
    Bug {
        name: "a late token is obeyed",
        file: "session/tokens.rs",
        of: "self.state.request.filter(|request| request.g == g)?",
        to: "self.state.request.filter(|_| g > 0)?",
        red: "an old answer of the callback",
    },
    Bug {
        name: "the counter is reset when a connection opens",
        file: "session/attempts.rs",
        of: "            self.state.phase = Phase::Hello;\n",
        to: "            self.state.phase = Phase::Hello;\n            self.state.attempt = 0;\n",
        red: "the counter is not reset when a connection opens",
    },
    Bug {
        name: "a clamp in place of the window",
        file: "delay.rs",
        of: "    low.saturating_add(part(random, base.saturating_add(JITTER_MS) - low + 1))",
        to: "    (base + part(random, 2 * JITTER_MS + 1)).saturating_sub(JITTER_MS).max(low)",
        red: "a window, not a clamp",
    },
    Bug {
        name: "a final code is retried",
        file: "session/attempts.rs",
        of: "} else if is_final {\n            self.stop(code, message);",
        to: "} else if is_final && code.is_empty() {\n            self.stop(code, message);",
        red: "evicted is final",
    },
    Bug {
        name: "the page of a proxy stops a client that was live",
        file: "session/attempts.rs",
        of: "            (Some(_), _) if is_foreign => false,\n",
        to: "            (Some(_), _) if is_foreign => true,\n",
        red: "an event stream that is answered 404 without a code after a hello is tried again",
    },
    Bug {
        name: "a wrong address is tried for ever",
        file: "session/attempts.rs",
        of: "status != Some(204) && self.state.connected_wall.is_some()",
        to: "status != Some(204)",
        red: "an event stream that is answered 404 is final",
    },
    Bug {
        name: "the token callback is called twice",
        file: "session/tokens.rs",
        of: "if self.state.request.is_some() {",
        to: "if self.state.request.is_some() && reason == TokenReason::Initial {",
        red: "one callback at a time",
    },
    Bug {
        name: "held live events are dropped",
        file: "session/delivery.rs",
        of: "        self.release(held);\n",
        to: "        self.release(held.into_iter().take(0).collect());\n",
        red: "two pages, and live events held back",
    },
    Bug {
        name: "a ping does not move the cursor",
        file: "session/frames.rs",
        of: "        self.advance(frame, Some(Vec::new()));\n",
        to: "        let _ = frame;\n",
        red: "event, batch and ping move the cursor",
    },
    Bug {
        name: "a ping of ours for each of a burst",
        file: "session/clock.rs",
        of: ">= ASK_MS",
        to: "<= u64::MAX - ASK_MS",
        red: "a burst of pings of the gateway is no reason for a burst of ours",
    },
    Bug {
        name: "hello may skip",
        file: "continuity.rs",
        of: "Some(cursor) if start.seq > cursor.seq => None,",
        to: "Some(cursor) if start.seq > cursor.seq && cursor.seq > start.seq => None,",
        red: "hello above the cursor would skip events",
    },
    Bug {
        name: "a transport is kept before its hello",
        file: "session/attempts.rs",
        of: "                    s.home = other;\n",
        to: "                    (s.home, s.kept) = (other, other);\n                    self.emit(Output::Transport { transport: other });\n",
        red: "a page that is left twice soon after hello keeps nothing",
    },
];
