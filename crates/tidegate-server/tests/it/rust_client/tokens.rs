//! The Rust client's tokens: renewed in place, refused, never given.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use serde_json::json;
use tidegate_client::{Client, TokenError, TokenReason, Transport};
use tokio::sync::mpsc;

use super::{BOTH, client, connected, count, expect, run};
use crate::gateway::{Gateway, now_s};

/// A callback that makes tokens with `make`, and tells why it was asked.
fn tokens(
    make: impl Fn() -> Result<String, TokenError> + Clone + Send + Sync + 'static,
) -> (mpsc::UnboundedReceiver<TokenReason>, impl Fn(tidegate_client::TokenRequest) -> TokenFuture) {
    let (tell, reasons) = mpsc::unbounded_channel();
    let callback = move |request: tidegate_client::TokenRequest| {
        tell.send(request.reason).expect("the test runs");
        let made = make();
        Box::pin(async move { made }) as TokenFuture
    };
    (reasons, callback)
}

type TokenFuture = std::pin::Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

#[test]
fn a_token_is_renewed_in_place_without_losing_the_connection() {
    let gateway = Arc::new(Gateway::with(&["auth.leeway=0s"]));
    for transport in BOTH {
        run(async {
            let issuer = Arc::clone(&gateway);
            let (mut reasons, callback) = tokens(move || Ok(issuer.token_with(&json!({"exp": now_s() + 3}))));
            let builder = client(&gateway, gateway.public).transports([transport]).token(callback);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            assert_eq!(reasons.recv().await, Some(TokenReason::Initial));
            connected(&client).await;
            for renewal in 0..3 {
                assert_eq!(reasons.recv().await, Some(TokenReason::Refresh));
                count(&gateway, renewal + 1..=renewal + 1);
                expect(&mut deliveries, renewal + 1..=renewal + 1).await;
            }
            let metrics = client.metrics();
            assert_eq!((metrics.total_disconnects, metrics.gaps), (0, 0), "{metrics:?}");
            client.shutdown().await;
        });
    }
}

#[test]
fn an_event_stream_is_renewed_while_the_application_stands_still() {
    let gateway = Arc::new(Gateway::with(&["auth.leeway=0s"]));
    run(async {
        let issuer = Arc::clone(&gateway);
        let (mut reasons, callback) = tokens(move || Ok(issuer.token_with(&json!({"exp": now_s() + 3}))));
        let builder = client(&gateway, gateway.public).transports([Transport::Sse]).token(callback);
        let (client, mut deliveries) = builder.buffer(1, 1 << 20).connect().expect("it starts");
        assert_eq!(reasons.recv().await, Some(TokenReason::Initial));
        connected(&client).await;
        count(&gateway, 1..=500);
        // Each renewal opens a new stream, and finds the queue full.
        for _ in 0..3 {
            assert_eq!(reasons.recv().await, Some(TokenReason::Refresh));
        }
        assert_eq!(client.metrics().total_disconnects, 0);
        expect(&mut deliveries, 1..=500).await;
        assert_eq!(client.metrics().gaps, 0);
    });
}

#[test]
fn a_token_that_is_refused_three_times_in_a_row_ends_the_client() {
    let gateway = Arc::new(Gateway::start());
    for transport in BOTH {
        run(async {
            let issuer = Arc::clone(&gateway);
            let (mut reasons, callback) =
                tokens(move || Ok(issuer.token_with(&json!({"exp": now_s() - 100}))));
            let builder = client(&gateway, gateway.public).transports([transport]).token(callback);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            let ended = deliveries.next().await.expect("an item").expect_err("no token is good");
            assert_eq!((ended.code.as_str(), client.closed().await), ("auth", Some(ended.clone())));
            let mut asked = Vec::new();
            while let Ok(reason) = reasons.try_recv() {
                asked.push(reason);
            }
            assert_eq!(asked, [TokenReason::Initial, TokenReason::Expired, TokenReason::Expired]);
        });
    }
}

#[test]
fn one_token_that_expires_ends_the_client_at_once() {
    let gateway = Gateway::with(&["auth.leeway=0s"]);
    run(async {
        let token = gateway.token_with(&json!({"exp": now_s() + 2}));
        let builder = client(&gateway, gateway.public).static_token(token);
        let (client, mut deliveries) = builder.connect().expect("it starts");
        connected(&client).await;
        let ended = deliveries.next().await.expect("an item").expect_err("it expires");
        assert_eq!(ended.code, "auth");
        assert!(ended.to_string().starts_with("token_expired: "), "{ended}");
        assert_eq!(client.metrics().total_disconnects, 1);
    });
}

#[test]
fn a_callback_may_say_that_nobody_is_logged_in_or_fail_for_a_while() {
    let gateway = Gateway::start();
    count(&gateway, 1..=1);
    run(async {
        let (_reasons, callback) = tokens(|| Err(TokenError::fatal("the session is over")));
        let (_client, mut deliveries) =
            client(&gateway, gateway.public).token(callback).connect().expect("it starts");
        let ended = deliveries.next().await.expect("an item").expect_err("nobody is logged in");
        assert_eq!((ended.code.as_str(), ended.to_string().as_str()), ("auth", "the session is over"));
        // An error of any kind, an empty answer and a panic are tried again.
        let calls = AtomicU64::new(0);
        let token = gateway.token.clone();
        let callback = move |_| {
            let (call, token) = (calls.fetch_add(1, Ordering::SeqCst), token.clone());
            async move {
                match call {
                    0 => Err(std::io::Error::other("no network").into()),
                    1 => Ok::<_, TokenError>(String::new()),
                    2 => panic!("a fault of the application"),
                    _ => Ok(token),
                }
            }
        };
        let builder = client(&gateway, gateway.public).tail(1).token(callback);
        let (_client, mut deliveries) = builder.connect().expect("it starts");
        expect(&mut deliveries, 1..=1).await;
    });
}

#[test]
fn a_callback_that_hangs_is_given_up_and_asked_again() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let gateway = Gateway::start();
    count(&gateway, 1..=1);
    run(async {
        let (calls, is_dropped) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
        let (token, dropped) = (gateway.token.clone(), Arc::clone(&is_dropped));
        let callback = move |_| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            let (token, dropped) = (token.clone(), Dropped(Arc::clone(&dropped)));
            async move {
                if first {
                    let _held = dropped;
                    std::future::pending::<()>().await;
                } else {
                    std::mem::forget(dropped);
                }
                Ok::<_, TokenError>(token)
            }
        };
        let builder = Client::builder(format!("http://{}", gateway.public)).org(&gateway.org).tail(1);
        let builder = builder.transports([Transport::Ws]).token(callback).impatient(true);
        let (client, mut deliveries) = builder.connect().expect("it starts");
        expect(&mut deliveries, 1..=1).await;
        assert!(is_dropped.load(Ordering::SeqCst), "what hung is dropped");
        assert_eq!(client.metrics().reconnect_attempts, 1);
    });
}
