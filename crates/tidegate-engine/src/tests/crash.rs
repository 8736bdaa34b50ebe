//! SIGKILL under load: a child appends and says what was acknowledged, the parent kills it in the
//! middle, opens the log and counts.
//!
//! The child is this test binary again; its environment says that it is one. It is killed after a
//! number of acknowledgements drawn at random, not after a time.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use super::{chain::Epochs, *};

const DIR: &str = "TIDEGATE_TEST__CRASH_DIR";
const ROUND: &str = "TIDEGATE_TEST__CRASH_ROUND";
const ROUNDS: usize = 12;
const ORGS: [&str; 3] = ["acme", "other", "third"];

fn options(dir: PathBuf) -> DiskOptions {
    // Short buckets, so that kills also meet the beginning and closing of buckets.
    DiskOptions { bucket: Some(Duration::from_millis(50)), ..DiskOptions::for_tests(dir) }
}

/// The child. Does nothing when it runs as a test like any other.
#[test]
fn child() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let feed: Arc<RecordingFeed> = Arc::default();
    let hooks = Hooks { feed, clock: Arc::new(SystemClock), observer: Arc::new(()) };
    let engine = LocalEngine::disk(options(dir.into()), hooks).unwrap();
    let filler = vec![b' '; 20_000];
    std::thread::scope(|scope| {
        for publisher in 0..6 {
            let (engine, round, filler) = (&engine, &round, &filler);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for n in 0.. {
                    let name = ORGS[(publisher + n) % ORGS.len()];
                    let ids: Vec<String> =
                        (0..1 + n % 4).map(|i| format!("{round}-{publisher}-{n}-{i}")).collect();
                    let mut events: Vec<NewEvent> = ids.iter().map(|id| event(name, id)).collect();
                    if publisher == 0 {
                        // Large ones, so that journals fill up and are rotated as well.
                        for event in &mut events {
                            event.body = [&event.body[..], &filler[..]].concat().into();
                        }
                    }
                    let appended = runtime.block_on(engine.append(&org(name), events)).unwrap();
                    let mut acks = String::new();
                    for (id, stored) in ids.iter().zip(appended.stored) {
                        acks += &format!("ack {name} {} {id}\n", stored.seq);
                    }
                    // One write, so that lines of several threads do not mix; a pipe that nobody
                    // reads any more ends this process too.
                    std::io::stdout().lock().write_all(acks.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn p3_what_was_acknowledged_survives_sigkill_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut draw = Epochs::from_system().unwrap();
    let mut acked: Vec<(String, Seq, String)> = Vec::new();
    for round in 0..ROUNDS {
        // A little randomness: how many acknowledgements this child lives for.
        let drawn = draw.draw().as_str().bytes().fold(0usize, |sum, byte| sum * 7 + usize::from(byte));
        let target = acked.len() + 1 + drawn % 1500;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::child", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut killed = false;
        while {
            line.clear();
            lines.read_line(&mut line).unwrap() > 0
        } {
            // libtest writes its own lines into the same pipe; a cut one at the end is no ack.
            let Some(at) = line.find("ack ").filter(|_| line.ends_with('\n')) else { continue };
            let words: Vec<&str> = line[at..].split_whitespace().collect();
            let [_, org, seq, id] = words[..] else { panic!("{line:?}") };
            acked.push((org.to_owned(), seq.parse().unwrap(), id.to_owned()));
            if acked.len() >= target && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        check(dir.path(), &acked, round);
    }
}

/// Opens the log as the next process would and compares it with what was acknowledged.
fn check(dir: &std::path::Path, acked: &[(String, Seq, String)], round: usize) {
    let mut world = World::new(Kind::Disk);
    world.window = Duration::from_secs(24 * 3600);
    world.pass(SystemClock.now().saturating_sub(DAWN));
    let node = world.try_open(dir).unwrap();
    for name in ORGS {
        let state = node.state(name);
        assert!(!state.ancestors.iter().any(|ancestor| ancestor.lossy), "round {round}: {state:?}");
        let log = node.all(name, 0);
        let seqs: Vec<Seq> = log.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=state.head).collect::<Vec<_>>(), "round {round}");
        let ids: HashSet<String> = log.iter().map(|event| id_of(event)).collect();
        assert_eq!(ids.len(), log.len(), "round {round}: an id twice in {name}");
        for (_, seq, id) in acked.iter().filter(|(org, ..)| org == name) {
            let event = log.get(*seq as usize - 1).unwrap_or_else(|| panic!("round {round}: {id} is lost"));
            assert_eq!(id_of(event), *id, "round {round}: {name} {seq}");
        }
        // Writes go on, and what was acknowledged is still known (R12).
        node.put(name, &[&format!("parent-{round}")]);
        if let Some((_, seq, id)) = acked.iter().rev().find(|(org, ..)| org == name) {
            assert_eq!(node.put(name, &[id]), [(*seq, true)]);
        }
    }
    if round.is_multiple_of(2) {
        node.engine.close();
    }
}

fn id_of(event: &tidegate_core::Event) -> String {
    let text = String::from_utf8(event.fragment.to_vec()).unwrap();
    let from = text.find("\"id\":\"").unwrap() + 6;
    text[from..].split('"').next().unwrap().to_owned()
}
