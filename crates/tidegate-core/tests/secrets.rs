//! From the lengths of what a reader gets, a publisher to one service learns nothing about the events of another
//! service (CRIME, BREACH), in every form: over WebSocket with and without context, in gzip bodies and in envelopes.
//!
//! The attack: a reader sees the services `finance` and `comments`. The attacker may publish to `comments`, guesses
//! what stands in an event of `finance`, and sees lengths. If they tell nothing, a length is a sum of what the
//! secret adds and of what the guess adds: no guess fits one secret better than another.

use std::{io::Read as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Decompress, FlushDecompress, read::GzDecoder};
use tidegate_core::{
    Batch, Event, Framing, View, ViewKey,
    batch::{Compressed, Compressor},
    deflate::{Contexts, Generations, Membership},
    envelope::Enveloping,
    gzip::GzipBody,
};
use tidegate_protocol::{Epoch, Filter, OrgId, ServiceName, ws};

const FIRST: [&str; 10] =
    ["Anders", "Birgit", "Carlos", "Dieter", "Evelyn", "Fatima", "Gustav", "Hannah", "Ingrid", "Joanna"];
const LAST: [&str; 6] = ["Lindqvist", "Moreau-Le", "Nakamura", "O'Sullivan", "Petrova", "Schneider"];

/// 60 names of as many different texts.
fn names() -> Vec<String> {
    FIRST.iter().flat_map(|first| LAST.iter().map(move |last| format!("{first} {last:_<10}"))).collect()
}

fn org() -> OrgId {
    OrgId::parse("acme").expect("a name")
}

/// A form in which a reader gets its frames.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// A member of a generation, from its beginning.
    Member,
    /// WebSocket messages without context.
    Alone,
    Gzip,
    Envelope,
}

const FORMS: [Form; 4] = [Form::Member, Form::Alone, Form::Gzip, Form::Envelope];

/// The events of one stream: for each batch, the service and the text of each event.
type Batches = Vec<Vec<(&'static str, String)>>;

/// Where the guess is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Before,
    After,
    BeforeInBatch,
    AfterInBatch,
    /// Between two secrets, in one batch, and again in the next.
    Between,
}

const PLACES: [Place; 5] =
    [Place::Before, Place::After, Place::BeforeInBatch, Place::AfterInBatch, Place::Between];

fn batches(place: Place, secret: &str, guess: &str) -> Batches {
    let secret =
        || ("finance", format!(r#"{{"customer":"{secret}","note":"has not paid, {secret} is late"}}"#));
    let guess = || {
        let text = format!(r#"{{"customer":"{guess}","note":"has not paid, {guess} is late"}}"#);
        ("comments", text)
    };
    match place {
        Place::Before => vec![vec![guess()], vec![secret()], vec![secret()]],
        Place::After => vec![vec![secret()], vec![guess()], vec![guess()]],
        Place::BeforeInBatch => vec![vec![guess(), secret()]],
        Place::AfterInBatch => vec![vec![secret(), guess(), guess()]],
        Place::Between => (0..2).map(|_| vec![secret(), guess(), secret(), guess()]).collect(),
    }
}

/// The compressed frames of a stream in this form, after their texts were read and compared.
fn frames(form: Form, stream: &Batches) -> Vec<usize> {
    let framing = if form == Form::Gzip { Framing::Sse } else { Framing::WebSocket };
    let key = ViewKey { epoch: Epoch::parse("e").expect("an epoch"), filter: Filter::all(), framing };
    let generations = Generations::new(Arc::new(Contexts::new(32)), org());
    let (mut membership, mut inflater) = (Membership::default(), Decompress::new(false));
    let (mut lengths, mut seq, mut body, mut texts) = (Vec::new(), 0, Vec::new(), Vec::new());
    let mut gzip = GzipBody::begin(&mut body);
    for events in stream {
        let prev = seq;
        let events = events.iter().map(|(service, data)| {
            seq += 1;
            let fragment = format!(r#""seq":{seq},"service":"{service}","data":{data}"#);
            let service = ServiceName::parse(service).expect("a name");
            Arc::new(Event { seq, timestamp: 1, service, users: None, fragment: fragment.into() })
        });
        let events = events.collect();
        let batch = Batch::new(prev, seq, 1, events, &Arc::default());
        let View::Frame { bytes: plain, .. } = batch.view(&org(), &key, prev) else { panic!("events") };
        let view = match form {
            Form::Envelope => batch.enveloped_view(&org(), &key, prev, &Enveloping::default()),
            Form::Member | Form::Gzip | Form::Alone => {
                let by = (form == Form::Member).then_some(&generations);
                batch.compressed_view(&org(), &key, prev, Compressor { generations: by, excluded: &[] })
            }
        };
        let Some(View::Frame { compressed: Some(compressed), .. }) = view else {
            panic!("{form:?}: compressed")
        };
        let plain_text = &plain[ws::header_length(&plain)..];
        match &*compressed {
            Compressed::Deflated(forms) => {
                let frame = membership.take(forms);
                assert_eq!(membership.is_member(), form == Form::Member);
                let payload = [&frame[ws::header_length(&frame)..], &[0, 0, 0xFF, 0xFF]].concat();
                let mut text = Vec::with_capacity(plain.len() + 1);
                inflater.decompress_vec(&payload, &mut text, FlushDecompress::Sync).expect("deflate");
                assert!(text == plain_text, "{form:?}: the client reads other text");
                lengths.push(frame.len());
            }
            Compressed::Block(block) => {
                gzip.share(block, &mut body);
                texts.push(plain.clone());
                lengths.push(block.bytes().len());
            }
            Compressed::Enveloped(frame) => {
                let text = String::from_utf8(frame[ws::header_length(frame)..].to_vec()).expect("UTF-8");
                let data = text.split(r#""data":""#).nth(1).and_then(|rest| rest.split('"').next());
                let data = STANDARD.decode(data.expect("data")).expect("base64");
                let mut batch = String::new();
                GzDecoder::new(&data[..]).read_to_string(&mut batch).expect("gzip");
                assert!(batch.starts_with(r#"{"type":"batch""#) && batch.ends_with("}]}"), "{batch}");
                // The frame has this length in base64, so in steps of four.
                lengths.push(data.len());
            }
        }
    }
    gzip.end(&mut body);
    let mut read = Vec::new();
    GzDecoder::new(&body.concat()[..]).read_to_end(&mut read).expect("gzip");
    assert!(read == texts.concat(), "the client reads other text");
    lengths
}

#[test]
fn r18_lengths_do_not_tell_which_guess_in_one_service_stands_in_another() {
    let names = names();
    let secrets = [3, 11, 17, 24, 32, 41, 48, 59].map(|at: usize| &names[at]);
    for form in FORMS {
        for place in PLACES {
            let lengths =
                |secret: &str, guess: &str| -> Vec<usize> { frames(form, &batches(place, secret, guess)) };
            // What each guess adds, beside a secret that nobody guesses.
            let nobody = "Xzy Q-Wvkjfh__#####".replace('#', "8");
            let of_guesses: Vec<_> = names.iter().map(|guess| lengths(&nobody, guess)).collect();
            for secret in secrets {
                let first = lengths(secret, &names[0]);
                for (guess, of_guess) in names.iter().zip(&of_guesses) {
                    let seen = lengths(secret, guess);
                    let expected =
                        first.iter().zip(of_guess).zip(&of_guesses[0]).map(|((a, b), c)| a + b - c);
                    let expected: Vec<usize> = expected.collect();
                    assert_eq!(seen, expected, "{form:?}, {place:?}: {guess} beside {secret}");
                }
            }
        }
    }
}

#[test]
fn r18_what_is_sent_for_one_service_has_the_same_length_whatever_the_other_has() {
    let names = names();
    for form in FORMS {
        let of_comments = |secret: &str| -> Vec<usize> {
            let stream = (0..20).map(|number| {
                if number % 2 == 0 {
                    vec![("finance", format!(r#"{{"customer":"{secret}","number":{number}}}"#))]
                } else {
                    vec![("comments", format!(r#"{{"customer":"{}","number":{number}}}"#, names[number]))]
                }
            });
            frames(form, &stream.collect()).into_iter().skip(1).step_by(2).collect()
        };
        let first = of_comments(&names[0]);
        for secret in &names {
            assert_eq!(of_comments(secret), first, "{form:?}: {secret}");
        }
    }
}

#[test]
fn r18_many_services_and_many_parts_are_kept_apart_and_read_right() {
    const SERVICES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    for form in FORMS {
        let stream = |secret: &str| -> Batches {
            let event = |number: usize| {
                let data = format!(r#"{{"customer":"{}","n":{}}}"#, names()[number % 60], number % 10);
                match SERVICES[number * 7 % 12] {
                    "c" => ("c", format!(r#"{{"customer":"{secret}","n":{}}}"#, number % 10)),
                    service => (service, data),
                }
            };
            (0..6).map(|batch| (0..150).map(|at| event(batch * 150 + at)).collect()).collect()
        };
        // They compress alike: each repeats itself alone.
        let [one, other] = ["Qzxjv Wkpfg__0", "Vkwqx Jzgpf__0"].map(|secret| frames(form, &stream(secret)));
        assert_eq!(one, other, "{form:?}");
    }
}
