//! Publishes events and says what became of each. Beside `tidegate dev`:
//!
//! ```sh
//! cargo run -p tidegate-client --example publish -- http://127.0.0.1:8080 dev "$KEY"
//! ```

use std::{error::Error, time::Duration};

use serde_json::json;
use tidegate_client::publisher::{NewEvent, Outcome, Publisher};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, org, key] = &arguments[..] else {
        return Err("usage: publish <url> <org> <API key>".into());
    };
    publish(url, org, key, |line| println!("{line}")).await
}

// example: publish
/// Publishes invoices that were paid, and says what became of each.
pub async fn publish(
    url: &str,
    org: &str,
    key: &str,
    mut print: impl FnMut(String),
) -> Result<(), Box<dyn Error>> {
    let publisher = Publisher::builder(url, key).org(org).build()?;
    let mut receipts = Vec::new();
    for (id, amount) in [("inv-70", "1200.00"), ("inv-71", "80.00")] {
        let event = NewEvent::new("finance", "invoice.paid", json!({"amount": amount})).id(id);
        // Waits while the queue is full. Events that wait at the same time share a request.
        receipts.push(publisher.send(event).await);
    }
    for receipt in receipts {
        print(match receipt.await {
            Outcome::Stored(stored) => format!("{} is stored at {}", stored.id, stored.seq),
            Outcome::Duplicate(stored) => format!("{} was stored before, at {}", stored.id, stored.seq),
            Outcome::Unknown(unknown) => format!("publish {} again: {}", unknown.id, unknown.detail),
            Outcome::Refused(refused) => format!("{} is refused: {}", refused.id, refused.detail),
        });
    }
    // Before the program ends: what is not stored after 10 s is given up, and returned.
    for left in publisher.close(Duration::from_secs(10)).await {
        print(format!("{} may be lost", left.id()));
    }
    Ok(())
}
// end
