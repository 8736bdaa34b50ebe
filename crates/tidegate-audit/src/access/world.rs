//! The world that tries look at: some orgs, services with similar names, users, events for all and for some
//! users. From a seed and a number it draws a try: a token, a URL and a start.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use rand::{
    Rng as _, SeedableRng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use super::model::{Event, Grant, Start, Try};
use crate::{gateway::Gateway, raw};

/// The orgs. The last has no events.
const ORGS: &[&str] = &["alpha", "Alpha", "beta", "alpha2", "void"];
/// Orgs without tokens, and one that is not a valid name.
const STRANGE_ORGS: &[&str] = &["gamma", "ALPHA", "a%6cpha"];
const SERVICES: &[&str] = &["a", "b", "A", "ab", "never"];
const USERS: &[&str] = &["u1", "u10", "U1", "u2"];
const GRANTS: &[&[&str]] =
    &[&["*"], &["a"], &["b", "a"], &["ab"], &["A", "never"], &["a", "b", "A", "ab", "never"]];
/// Number of events of each org.
const EVENTS: usize = 240;

/// A valid token and its content.
pub struct Token {
    pub text: String,
    pub grant: Grant,
}

/// The orgs with their logs, and the tokens.
pub struct World {
    pub logs: BTreeMap<&'static str, Log>,
    tokens: Vec<Token>,
    /// The filter tag of each set of services, as the gateway reports it.
    tags: BTreeMap<Vec<&'static str>, String>,
}

/// An org's log.
#[derive(Default)]
pub struct Log {
    pub epoch: String,
    pub head: u64,
    pub events: Vec<Event>,
}

/// One try: the request for the model, and the same request for the wire.
pub struct Asking<'a> {
    pub tried: Try<'a>,
    pub token: String,
    /// The value of `services=` in the query.
    pub services: Option<String>,
    /// The cursor, as text.
    pub cursor: Option<String>,
}

impl World {
    /// Creates it on a gateway.
    pub async fn make(gateway: &Gateway, client: &reqwest::Client, rng: &mut StdRng) -> anyhow::Result<Self> {
        let mut world = Self { logs: BTreeMap::new(), tokens: Vec::new(), tags: BTreeMap::new() };
        for org in ORGS {
            for (user, services) in USERS.iter().flat_map(|user| GRANTS.iter().map(move |list| (user, list)))
            {
                let list = services.join(",");
                let arguments = ["token", "create", "--org", org, "--user", user, "--services", &list];
                let text = gateway.command(&arguments).await?;
                let grant = Grant { org, user, services };
                world.tokens.push(Token { text, grant });
            }
        }
        let key = gateway.command(&["key", "create", "--org", "*", "--services", "*", "--json"]).await?;
        let key = raw::word(&key, "key").context("key create printed no key")?.to_owned();
        world.logs = publish(gateway, client, &key, rng).await?;
        world.ask_tags(gateway, client).await?;
        Ok(world)
    }

    /// Reads the epochs and tags. The gateway promises that different sets have different tags, which is
    /// checked too.
    async fn ask_tags(&mut self, gateway: &Gateway, client: &reqwest::Client) -> anyhow::Result<()> {
        let url = &gateway.announced().url;
        for token in self.tokens.iter().filter(|token| token.grant.user == USERS[0]) {
            let ask =
                client.get(format!("{url}/v1/orgs/{}/cursor", token.grant.org)).bearer_auth(&token.text);
            let text = ask.send().await?.text().await?;
            let cursor = raw::word(&text, "cursor").with_context(|| format!("request a cursor: {text}"))?;
            let mut parts = cursor.split('-');
            let (epoch, _, tag) = (parts.next(), parts.next(), parts.next().unwrap_or_default().to_owned());
            if let Some(log) = self.logs.get_mut(token.grant.org) {
                log.epoch = epoch.unwrap_or_default().to_owned();
            }
            let mut set = token.grant.services.to_vec();
            set.sort_unstable();
            let known = self.tags.entry(set).or_insert_with(|| tag.clone());
            ensure!(*known == tag, "the same services have two tags");
        }
        let mut tags: Vec<&String> = self.tags.values().collect();
        tags.sort_unstable();
        tags.dedup();
        ensure!(tags.len() == GRANTS.len(), "two sets of services have one tag");
        Ok(())
    }

    /// The signature of every token. None may appear in the gateway's log.
    pub fn signatures(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| token.text.rsplit('.').next())
    }

    /// Draws a try.
    pub fn asking(&self, rng: &mut StdRng) -> Asking<'_> {
        let token = &self.tokens[rng.random_range(0..self.tokens.len())];
        let org = match rng.random_range(0..20) {
            0 => ORGS[rng.random_range(0..ORGS.len())],
            1 if rng.random_bool(0.5) => STRANGE_ORGS[rng.random_range(0..STRANGE_ORGS.len())],
            _ => token.grant.org,
        };
        let services: Option<Vec<&'static str>> = match rng.random_range(0..20) {
            0..8 => None,
            8 => Some(vec![""]),
            9 => Some(vec!["*"]),
            10 => Some(vec!["a", "*"]),
            11 if rng.random_bool(0.3) => Some(vec!["a", ""]),
            12 if rng.random_bool(0.3) => Some(vec!["%61%2C", "b"]),
            // Mostly within the grant, because otherwise most tries would be refused.
            _ => {
                let list = if token.grant.services == ["*"] || rng.random_bool(0.15) {
                    SERVICES
                } else {
                    token.grant.services
                };
                Some((0..rng.random_range(1..4)).map(|_| list[rng.random_range(0..list.len())]).collect())
            }
        };
        let head = self.logs.get(org).map_or(0, |log| log.head);
        let (start, cursor) = match rng.random_range(0..12) {
            0 | 1 => (Start::Head, None),
            2 => (Start::Oldest, None),
            3 | 4 => (Start::Tail([0, 1, 2, 7, 60, 1000][rng.random_range(0..6)]), None),
            5 if rng.random_bool(0.4) => {
                let faulty = [
                    "x",
                    "-",
                    "e-",
                    "e--1",
                    "E-1",
                    "e-01",
                    "e-1-",
                    "e-1-T",
                    "e-9007199254740992",
                    "e-1-t-t",
                    "e-1%00",
                    "e%201",
                ];
                (Start::Faulty, faulty.choose(rng).map(|text| (*text).to_owned()))
            }
            _ => {
                let of = match rng.random_range(0..10) {
                    0 => ORGS[rng.random_range(0..ORGS.len())],
                    1 => "nowhere",
                    _ => org,
                };
                let seq = match rng.random_range(0..10) {
                    0 => 0,
                    1 => head,
                    2 => head + rng.random_range(1..1000),
                    3 => (1 << 53) - 1,
                    _ => rng.random_range(0..=head),
                };
                let made_for =
                    rng.random_bool(0.7).then(|| GRANTS[rng.random_range(0..GRANTS.len())].to_vec());
                let epoch = self.logs.get(of).map_or("0000000000000", |log| log.epoch.as_str());
                let tag = made_for.as_ref().map(|services| {
                    let mut set = services.clone();
                    set.sort_unstable();
                    self.tags.get(&set).map_or("", String::as_str)
                });
                let text = format!("{epoch}-{seq}{}", tag.map_or_else(String::new, |tag| format!("-{tag}")));
                (Start::Cursor { of, seq, made_for }, Some(text))
            }
        };
        let is_genuine = !rng.random_ratio(1, 50);
        let text = if is_genuine { token.text.clone() } else { spoilt(&token.text, rng) };
        let tried = Try { grant: is_genuine.then_some(&token.grant), org, services, start };
        Asking { services: tried.services.as_ref().map(|names| names.join(",")), tried, token: text, cursor }
    }
}

/// A token with one changed character in its claims or signature.
fn spoilt(token: &str, rng: &mut StdRng) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let first = token.find('.').map_or(0, |at| at + 1);
    // The last character of a part may hold unused bits.
    let at = rng.random_range(first..bytes.len() - 1);
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Publishes the events of all orgs, and returns their logs. One key covers all; half of the events go to the
/// address of their org, the others to the address where each event names its org.
async fn publish(
    gateway: &Gateway,
    client: &reqwest::Client,
    key: &str,
    rng: &mut StdRng,
) -> anyhow::Result<BTreeMap<&'static str, Log>> {
    let mut logs: BTreeMap<&'static str, Log> = ORGS.iter().map(|org| (*org, Log::default())).collect();
    let orgs = &ORGS[..ORGS.len() - 1];
    for round in 0..EVENTS / 40 {
        if round % 2 == 0 {
            for org in orgs {
                let path = format!("/v1/orgs/{org}/events");
                send(gateway, client, (key, &path), &[*org; 40], &mut logs, rng).await?;
            }
        } else {
            let mut mixed: Vec<&'static str> = orgs.iter().flat_map(|org| [*org; 40]).collect();
            mixed.shuffle(rng);
            for orgs in mixed.chunks(40) {
                send(gateway, client, (key, "/v1/events"), orgs, &mut logs, rng).await?;
            }
        }
    }
    Ok(logs)
}

/// Publishes one event for each of `orgs`, in one request with this key to this path.
async fn send(
    gateway: &Gateway,
    client: &reqwest::Client,
    (key, path): (&str, &str),
    orgs: &[&'static str],
    logs: &mut BTreeMap<&'static str, Log>,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let (mut texts, mut places) = (Vec::new(), Vec::new());
    for org in orgs {
        let log = logs.get_mut(org).context("an org without log")?;
        let number = log.events.len();
        let service = SERVICES[rng.random_range(0..SERVICES.len() - 1)];
        let users: Option<Vec<&'static str>> = rng
            .random_bool(0.4)
            .then(|| USERS.choose_multiple(rng, rng.clone().random_range(1..3)).copied().collect());
        let for_some = users
            .as_ref()
            .map_or_else(String::new, |users| format!(",\"users\":[\"{}\"]", users.join("\",\"")));
        texts.push(format!(
            "{{\"org\":\"{org}\",\"service\":\"{service}\",\"event\":\"e\",\"data\":\"{org} {number}\"{for_some}}}"
        ));
        log.events.push(Event { seq: 0, service, users });
        places.push((*org, number));
    }
    let request = client.post(format!("{}{path}", gateway.announced().url));
    let request = request.bearer_auth(key).header("content-type", "application/json");
    let answer = request.body(format!("[{}]", texts.join(","))).send().await.context("publish")?;
    let text = answer.text().await.context("read a publish response")?;
    let answers = raw::elements(raw::member(&text, "events").unwrap_or("[]"));
    ensure!(answers.len() == texts.len(), "a publish was answered with {text}");
    for ((org, number), answer) in places.into_iter().zip(answers) {
        let seq = raw::member(answer, "seq").and_then(|seq| seq.parse().ok());
        let log = logs.get_mut(org).context("an org without log")?;
        log.head = seq.context("an answer without seq")?;
        log.events[number].seq = log.head;
    }
    Ok(())
}

/// The random number generator of one try.
pub fn rng(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
}
