//! The client as a command: it is started for each run, and what it prints is judged line by line.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout},
};

use super::{
    live::Live,
    run::{Outcome, Verdict},
    scenario::{Scenario, Transport},
    serve::{Invitation, Kit},
};

/// How much of what the client writes to its standard error is kept.
const WORDS_BYTES: usize = 2000;

/// The placeholders of a command line, and what is put in their place. They are written in braces.
const PLACES: [(&str, &str); 7] = [
    ("url", "the gateway, http://127.0.0.1:40123"),
    ("stream", "the address of the stream itself, ws://... or http://..."),
    ("org", "each run has an org of its own"),
    ("transport", "ws or sse; use this one alone"),
    ("token", "the first token"),
    ("token_url", "GET answers a new token"),
    ("cursor", "where to start; an argument with it is left out if the scenario has none"),
];

/// A command line with placeholders.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments; not empty.
    words: Vec<String>,
}

/// The client's process and all that it started, killed when this goes.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Command {
    /// `None` if there are no words.
    ///
    /// # Errors
    /// A sentence, if a word has a placeholder that does not exist. Other braces, such as those of JSON, are
    /// left as they are.
    pub fn new(words: Vec<String>) -> Result<Option<Self>, String> {
        let is_unknown = |name: &&str| PLACES.iter().all(|(known, _)| known != name);
        if let Some(name) = words.iter().flat_map(|word| names_in_braces(word)).find(is_unknown) {
            let known = PLACES.map(|(name, _)| format!("{{{name}}}")).join(", ");
            return Err(format!(
                "there is no placeholder {{{name}}} for the client's arguments; there are {known}"
            ));
        }
        Ok((!words.is_empty()).then_some(Self { words }))
    }

    /// The placeholders, one a line, for the help of the command line.
    pub fn placeholders() -> String {
        PLACES.iter().map(|(name, about)| format!("  {:<12} {about}\n", format!("{{{name}}}"))).collect()
    }

    /// Plays one scenario to it.
    ///
    /// # Errors
    /// A sentence, if it cannot be started at all.
    pub async fn play(
        &self,
        kit: &Kit,
        scenario: &Arc<Scenario>,
        transport: Transport,
    ) -> Result<Verdict, String> {
        let (live, invitation) = kit.start(scenario, transport);
        if let Some(verdict) = live.with(|run, _| run.verdict().cloned()) {
            return Ok(verdict);
        }
        live.with(|run, now| run.begin(now));
        let mut child = self.spawn(&invitation)?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let words = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_last(stderr, Arc::clone(&words)));
        }
        let stdout = child.stdout.take();
        let mut verdict = tokio::select! {
            verdict = live.verdict() => verdict,
            verdict = listen(&live, child, stdout) => verdict,
        };
        drop(group);
        if verdict.verdict == Outcome::Failed {
            let words = words.lock().unwrap_or_else(PoisonError::into_inner);
            verdict.client_says = String::from_utf8_lossy(&words).trim().to_owned();
        }
        Ok(verdict)
    }

    fn spawn(&self, invitation: &Invitation) -> Result<Child, String> {
        let cursor = invitation.cursor.as_deref().unwrap_or_default();
        let places = [
            ("url", invitation.url.as_str()),
            ("org", &invitation.org),
            ("token", &invitation.token),
            ("transport", invitation.transport.name()),
            ("token_url", &invitation.token_url),
            ("cursor", cursor),
            ("stream", &invitation.stream),
        ];
        // An argument with {cursor} is left out if the scenario starts without one.
        let words = self.words.iter().filter(|word| !cursor.is_empty() || !word.contains("{cursor}"));
        let mut words = words.map(|word| {
            places
                .iter()
                .fold(word.clone(), |word, (name, value)| word.replace(&format!("{{{name}}}"), value))
        });
        let program = words.next().unwrap_or_default();
        let mut command = tokio::process::Command::new(&program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in places {
            let name = format!("TIDEGATE_{}", name.to_uppercase());
            if value.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        command.process_group(0).kill_on_drop(true);
        command.spawn().map_err(|error| format!("start {program}: {error}"))
    }
}

/// What stands in braces, if it is of a to z and underscores alone.
fn names_in_braces(word: &str) -> impl Iterator<Item = &str> {
    word.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        is_name.then_some(name)
    })
}

/// Takes the client's lines, then its end, and waits for the verdict.
async fn listen(live: &Live, mut child: Child, stdout: Option<ChildStdout>) -> Verdict {
    if let Some(stdout) = stdout {
        let mut lines = BufReader::new(stdout).lines();
        loop {
            match lines.next_line().await {
                Ok(Some(line)) => live.with(|run, now| run.line(now, &line)),
                Ok(None) => break,
                Err(_) => live.with(|run, now| run.line(now, "what is not UTF-8")),
            }
        }
    }
    let how = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    live.with(|run, now| run.exited(now, how));
    live.verdict().await
}

/// Reads to the end, and keeps the last bytes.
async fn keep_last(mut stderr: tokio::process::ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&bytes[..read]);
        let surplus = words.len().saturating_sub(WORDS_BYTES);
        words.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_that_does_not_exist_is_refused_and_other_braces_pass() {
        let read = |word: &str| Command::new(vec!["client".to_owned(), word.to_owned()]);
        for name in ["nosuch", "tokenurl"] {
            let error = read(&format!("x={{{name}}}")).expect_err("no such placeholder");
            assert_eq!(
                error,
                format!(
                    "there is no placeholder {{{name}}} for the client's arguments; there are {{url}}, {{stream}}, \
                     {{org}}, {{transport}}, {{token}}, {{token_url}}, {{cursor}}"
                )
            );
        }
        for word in ["{\"a\":{\"b\":1}}", "{}", "{Url}", "{ url }", "${HOME}", "{token}{token_url}", "{url"] {
            assert!(read(word).is_ok(), "{word}");
        }
    }
}
