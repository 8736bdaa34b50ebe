//! Follows an org's events, and continues where it stopped when it is started again. Beside `tidegate dev`:
//!
//! ```sh
//! cargo run -p tidegate-client --example follow -- http://127.0.0.1:8080 dev "$TOKEN" follow.cursor
//! ```

use std::{error::Error, fs, path::Path};

use tidegate_client::{Client, Cursor, Delivery, Notice, TokenError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, org, token, file] = &arguments[..] else {
        return Err("usage: follow <url> <org> <token> <file for the position>".into());
    };
    follow(url, org, token.clone(), Path::new(file), |line| println!("{line}")).await
}

// example: follow
/// Prints events until the stream ends for good. `file` keeps the position between two runs.
pub async fn follow(
    url: &str,
    org: &str,
    token: String,
    file: &Path,
    mut print: impl FnMut(String),
) -> Result<(), Box<dyn Error>> {
    let kept: Option<Cursor> = fs::read_to_string(file).ok().and_then(|text| text.parse().ok());
    let (client, mut deliveries) = Client::builder(url)
        .org(org)
        .cursor(kept)
        // Called for the first token, and in time before each expires: ask your back-end for one here.
        // An error is tried again later; TokenError::fatal("nobody is logged in") ends the client.
        .token(move |_request| std::future::ready(Ok::<_, TokenError>(token.clone())))
        .on_notice(|notice| match notice {
            Notice::Connected { transport, resumed, .. } => {
                eprintln!("connected over {transport:?}, resumed: {resumed}");
            }
            Notice::Failed(failure) => eprintln!("{failure}"),
            _ => {}
        })
        .connect()?;
    while let Some(delivery) = deliveries.next().await {
        // An error comes last: it says why the stream has ended for good.
        match delivery? {
            Delivery::Event(event) => print(format!("{} {}", event.event, event.data_json())),
            Delivery::Gap(gap) => print(format!("events are missing ({}); load the state anew", gap.reason)),
        }
        // After the event was handled, not before: a crash in between repeats it, and loses nothing.
        if let Some(cursor) = client.cursor() {
            fs::write(file, cursor.to_string())?;
        }
    }
    Ok(())
}
// end
