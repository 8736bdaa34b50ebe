//! Where tokens come from: a callback of the application, or one token for as long as it is good.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

pub use tidegate_protocol::client::TokenReason;

/// What the token callback is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// Why a token is needed: the first one, one in place of an expired one, or a renewal in time.
    pub reason: TokenReason,
}

/// A token, and for how long it is good if the application knows. The gateway says so, too, once the stream is
/// open; before that, a token of unknown life is used for a minute.
#[derive(Clone)]
pub struct Token {
    pub(crate) text: String,
    pub(crate) expires_in: Option<Duration>,
}

impl Token {
    /// A token that is good for this long.
    pub fn expires_in(text: impl Into<String>, life: Duration) -> Self {
        Self { text: text.into(), expires_in: Some(life) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self { text, expires_in: None }
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Why the callback has no token. Any error becomes one by `?`, and is tried again after a delay.
///
/// This type is no [`std::error::Error`] itself, or the conversion could not be written.
pub struct TokenError {
    pub(crate) message: String,
    pub(crate) is_final: bool,
}

impl TokenError {
    /// Nobody is logged in, so that another try is of no use: the client ends with this sentence.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_final: true }
    }

    /// It may work later: the client asks again after a delay.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_final: false }
    }
}

impl<E: std::error::Error> From<E> for TokenError {
    fn from(error: E) -> Self {
        Self::retry(error.to_string())
    }
}

impl fmt::Debug for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenError")
            .field("message", &self.message)
            .field("is_final", &self.is_final)
            .finish()
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// Where a client gets its tokens.
#[derive(Clone)]
pub(crate) enum Tokens {
    Callback(Arc<dyn Fn(TokenRequest) -> Answer + Send + Sync>),
    /// One token. It cannot be renewed, so the gateway's `token_expired` is final.
    Static(Token),
}

impl Tokens {
    pub(crate) fn callback<F, A, T>(callback: F) -> Self
    where
        F: Fn(TokenRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, TokenError>> + Send + 'static,
        T: Into<Token>,
    {
        Self::Callback(Arc::new(move |request| {
            let answer = callback(request);
            Box::pin(async move { answer.await.map(Into::into) })
        }))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tokens::Callback(_) => "Callback",
            Tokens::Static(_) => "Static",
        })
    }
}
