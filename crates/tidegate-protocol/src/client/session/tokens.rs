//! Tokens: one request at a time, answered, failed or timed out.

use super::Session;
use crate::{
    client::{
        output::{Output, TokenReason, Transport},
        state::{Phase, TokenRequest},
    },
    frame::ClientFrame,
};

const TOKEN_MS: u64 = 15_000;

/// How long a token of unknown life is taken for good.
pub(super) const UNCONFIRMED_MS: u64 = 60_000;

const REFRESH_MS_MIN: u64 = 5_000;
const REFRESH_MS_MAX: u64 = 60_000;

impl Session {
    pub(super) fn token(&mut self, g: u64, token: String, expires_in_ms: Option<i64>) {
        let Some(reason) = self.answered(g) else { return };
        let life = match expires_in_ms {
            None => UNCONFIRMED_MS,
            Some(life) => u64::try_from(life).unwrap_or(0),
        };
        if token.is_empty() {
            return self.no_token(reason, "the callback returned no token");
        }
        if life == 0 {
            return self.no_token(reason, "the callback returned a token that has expired");
        }
        let s = &mut self.state;
        s.token_until = self.now.saturating_add(life);
        s.asked = true;
        let is_renewal = s.is_open() && reason == TokenReason::Refresh;
        let renewal = (is_renewal && s.transport == Transport::Ws).then(|| token.clone());
        s.token = Some(token);
        if s.phase == Phase::Auth {
            self.open();
        } else if let Some(token) = renewal {
            self.send(ClientFrame::Auth { token });
        } else if is_renewal {
            // An event stream takes no frames of ours, so the new token needs a new one.
            self.move_on();
        }
    }

    pub(super) fn token_failed(&mut self, g: u64, is_final: bool, message: String) {
        let Some(reason) = self.answered(g) else { return };
        if is_final {
            self.stop("auth", message);
        } else {
            self.no_token(reason, message);
        }
    }

    pub(super) fn token_timed_out(&mut self) {
        let Some(TokenRequest { reason, .. }) = self.state.request else { return };
        self.cancel_token();
        self.no_token(reason, "the token callback did not answer in 15 s");
    }

    /// Ends the request that an answer of this generation belongs to; `None` for a late answer.
    fn answered(&mut self, g: u64) -> Option<TokenReason> {
        let request = self.state.request.filter(|request| request.g == g)?;
        self.state.request = None;
        self.state.timers.token = None;
        Some(request.reason)
    }

    /// Asks for a token, for an attempt that has none.
    pub(super) fn need_token(&mut self) {
        self.get_token(if self.state.asked { TokenReason::Expired } else { TokenReason::Initial });
    }

    /// A new token is due, long before the old one expires.
    pub(super) fn refresh(&mut self) {
        self.state.timers.refresh = None;
        self.get_token(TokenReason::Refresh);
    }

    fn get_token(&mut self, reason: TokenReason) {
        // One at a time: the answer to the earlier request serves this one too.
        if self.state.request.is_some() {
            return;
        }
        let g = self.generation();
        self.state.request = Some(TokenRequest { g, reason });
        self.state.timers.token = Some(self.now + TOKEN_MS);
        self.emit(Output::GetToken { g, reason });
    }

    fn no_token(&mut self, reason: TokenReason, message: impl Into<String>) {
        if self.state.phase == Phase::Auth {
            return self.lose("token", message, 0);
        }
        self.emit(Output::Error {
            code: "token".into(),
            message: message.into(),
            fatal: false,
            retry_in_ms: None,
        });
        if reason == TokenReason::Refresh {
            self.refresh_later();
        }
    }

    /// Asks again after a quarter of what is left, so that there are several more tries before the token
    /// expires.
    pub(super) fn refresh_later(&mut self) {
        if self.state.is_open() && self.state.request.is_none() {
            let left = self.state.token_until.saturating_sub(self.now);
            let wait = (left / 4).clamp(REFRESH_MS_MIN, REFRESH_MS_MAX);
            self.state.timers.refresh = Some(self.now + wait);
        }
    }

    pub(super) fn cancel_token(&mut self) {
        self.state.timers.token = None;
        if let Some(TokenRequest { g, .. }) = self.state.request.take() {
            self.emit(Output::Cancel { g });
        }
    }
}
