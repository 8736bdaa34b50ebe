//! What `tidegate conformance` runs to test this client: it opens the stream that the environment names, and
//! prints a line of JSON for each event and gap, and for the end (spec/README.md).
//!
//! ```sh
//! cargo build -p tidegate-client --example conform
//! target/debug/tidegate conformance -- target/debug/examples/conform
//! ```

use std::{
    error::Error,
    io::{self, Write as _},
};

use serde_json::{Value, json};
use tidegate_client::{Client, Cursor, Delivery, TokenError, TokenReason, Transport};
use tidegate_protocol::Code;

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (first, token_url) = (variable("TIDEGATE_TOKEN")?, variable("TIDEGATE_TOKEN_URL")?);
    let transport = match variable("TIDEGATE_TRANSPORT")?.as_str() {
        "ws" => Transport::Ws,
        _ => Transport::Sse,
    };
    let cursor: Option<Cursor> = variable("TIDEGATE_CURSOR").ok().map(|text| text.parse()).transpose()?;
    let (_client, mut deliveries) = Client::builder(variable("TIDEGATE_URL")?)
        .org(variable("TIDEGATE_ORG")?)
        .transports([transport])
        .cursor(cursor)
        .token(move |request| {
            let (first, url) = (first.clone(), token_url.clone());
            async move {
                match request.reason {
                    TokenReason::Initial => Ok::<_, TokenError>(first),
                    _ => Ok(reqwest::get(url).await?.error_for_status()?.text().await?),
                }
            }
        })
        .on_notice(|notice| eprintln!("{notice:?}"))
        .connect()?;
    while let Some(delivery) = deliveries.next().await {
        let line = match delivery {
            Ok(Delivery::Event(event)) => {
                let data: Value = event.data()?;
                json!({"type": "event", "seq": event.seq, "service": event.service, "id": event.id, "data": data})
            }
            Ok(Delivery::Gap(gap)) => {
                json!({"type": "gap", "prev": gap.prev, "seq": gap.seq, "reason": gap.reason})
            }
            Err(ended) => match Code::from_name(&ended.code) {
                Some(code) => json!({"type": "end", "code": code.name()}),
                None => json!({"type": "end"}),
            },
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}
