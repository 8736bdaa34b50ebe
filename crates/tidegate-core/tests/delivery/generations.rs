//! Scripts of generations (R18, R19): the form in which each reader gets each batch.
//!
//! `check("a joins | 3 x 300 | b joins | 1 x 300", "a s4 | b a1")`: readers are letters, `a` to `d` over
//! WebSocket with permessage-deflate, `e` with `server_no_context_takeover`, `f` over SSE with gzip; `a`, `c`,
//! `e` are on one worker, the others on another; all see all services as the user of their letter. `3 x 300`
//! publishes 3 events of 300 bytes, each a batch of its own, and runs a fan-out pass of each worker.
//! Forms: `s` shared in context, `a` alone, `p` plain, `b` a block, `-` made for the one reader.

use super::world::{Kind, News, World};

const KINDS: [Kind; 6] =
    [Kind::Deflate, Kind::Deflate, Kind::Deflate, Kind::Deflate, Kind::DeflateAlone, Kind::SseGzip];

fn step(world: &mut World, words: &[&str]) {
    let letter = |word: &str| usize::from(word.as_bytes()[0] - b'a');
    let publish = |world: &mut World, count: &str, bytes: &str, service, user| {
        for _ in 0..count.parse().expect("a count") {
            world.publish(&[News { service, user, key: None, bytes: bytes.parse().expect("bytes") }]);
            world.fan_out(0);
            world.fan_out(1);
            world.arrive(&mut std::iter::repeat(7), true);
        }
    };
    if let [readers @ .., "joins"] = words {
        for reader in readers {
            world.join(letter(reader), KINDS[letter(reader)], reader, "*");
            assert!(world.serve(letter(reader), 100));
        }
        return;
    }
    match *words {
        [count, "x", bytes] => publish(world, count, bytes, "s", None),
        [count, "x", bytes, "to", user] => publish(world, count, bytes, "s", Some(user)),
        [count, "x", bytes, "of", service] => publish(world, count, bytes, service, None),
        [reader, "is", "told"] => world.private(letter(reader)),
        [reader, "is", "pinged"] => world.ping(letter(reader)),
        [reader, "stalls"] => world.stall(letter(reader)),
        [reader, "takes"] => assert!(world.serve(letter(reader), 1000)),
        [reader, "skips"] => {
            world.act(letter(reader), false);
            assert!(world.serve(letter(reader), 1000));
        }
        [reader, "renews", services] => {
            world.renew(letter(reader), services);
            assert!(world.serve(letter(reader), 1000));
        }
        ["sweep"] => world.sweep(),
        ["shorten"] => world.shorten_tail(),
        _ => panic!("no step: {words:?}"),
    }
    world.arrive(&mut std::iter::repeat(7), true);
}

fn forms(contexts: usize, script: &str) -> String {
    let mut world = World::new(KINDS.len(), contexts);
    for words in script.split('|') {
        step(&mut world, &words.split_whitespace().collect::<Vec<_>>());
    }
    let mut said = Vec::new();
    for (index, reader) in world.readers.iter().enumerate() {
        let Some(reader) = reader else { continue };
        let mut line = char::from(b'a' + index as u8).to_string();
        let mut rest = reader.forms.chars().peekable();
        while let Some(form) = rest.next() {
            let mut count = 1;
            while rest.next_if_eq(&form).is_some() {
                count += 1;
            }
            line.push_str(&format!(" {form}{count}"));
        }
        said.push(line);
    }
    world.settle(&mut std::iter::repeat(7));
    said.join(" | ")
}

fn check(script: &str, expected: &str) {
    assert_eq!(forms(8, script), expected, "{script}");
}

#[test]
fn r19_whoever_is_there_at_the_start_of_a_generation_is_a_member() {
    check("a b joins | 5 x 300", "a s5 | b s5");
    // No compressor is asked for before there is something to compress.
    check("a joins | b joins | 5 x 300", "a s5 | b s5");
}

#[test]
fn r19_a_joiner_gets_frames_without_context_until_it_holds_a_window_of_the_generation() {
    // Beside three members no roll is worth it so soon. 32 KiB of the generation's own text are 11 frames of
    // 3,100 bytes.
    check("a b c d joins | 9 x 3000 | a joins | 14 x 3000", "a a11 s3 | b s23 | c s23 | d s23");
}

#[test]
fn r19_a_joiner_that_costs_more_than_a_roll_brings_the_next_generation_about() {
    check("a joins | 3 x 300 | b joins | 60 x 300", "a s63 | b a40 s20");
    // Twice as many members: twice as long.
    check("a c joins | 3 x 300 | b joins | 99 x 300", "a s102 | b a79 s20 | c s102");
}

#[test]
fn r19_private_frames_to_a_member_go_uncompressed_and_leave_it_one() {
    check(
        "a b joins | 2 x 300 | a is told | a is pinged | 1 x 300 to a | a is told | 2 x 300",
        "a s2 -1 s2 | b s4",
    );
}

#[test]
fn r19_a_targeted_event_stays_out_of_the_shared_context() {
    check("a c joins | 2 x 300 | 1 x 300 to c | 2 x 300", "a s4 | c s2 -1 s2");
    // On another worker, whose readers did not get it, the next frame passes it (R1): b needs its own in place of that
    // frame, and is a member no longer.
    check("a b joins | 2 x 300 | 1 x 300 to b | 2 x 300", "a s4 | b s2 -2 a1");
}

#[test]
fn r19_a_reader_that_missed_a_frame_is_a_member_no_longer() {
    check("a c joins | 2 x 300 | a stalls | 3 x 300 | a skips | 4 x 300", "a s2 a4 | c s9");
    // One that has them all, late, has missed none.
    check("a c joins | 2 x 300 | a stalls | 3 x 300 | a takes | 4 x 300", "a s9 | c s9");
    // One that comes from the log comes plain, and is a hole.
    check(
        "a c joins | 2 x 300 | a stalls | 3 x 300 | shorten | shorten | shorten | a takes | 4 x 300",
        "a s2 a6 | c s9",
    );
}

#[test]
fn r6_r19_a_renewal_leaves_the_generation() {
    check("a b joins | 2 x 300 | a renews * | 4 x 300", "a s2 a4 | b s6");
}

#[test]
fn r19_who_forgets_every_message_is_never_a_member_and_neither_is_sse() {
    check("a e f joins | 5 x 300", "a s5 | e a5 | f b5");
    // Not even over a window of text.
    check("a e f joins | 20 x 3000", "a s20 | e a20 | f b20");
}

#[test]
fn r19_an_evicted_compressor_ends_its_generation() {
    // Those of idle filters go. What comes then is a generation of its own: who waited is in it, too.
    check("a joins | 3 x 300 | c joins | 1 x 300 | sweep | sweep | 3 x 300", "a s7 | c a1 s3");
    // One that was in use since the last sweep stays, and so does its generation.
    check("a joins | 3 x 300 | c joins | 1 x 300 | sweep | 3 x 300", "a s7 | c a4");
}

#[test]
fn r19_filters_past_the_bound_of_compressors_go_without_context() {
    assert_eq!(forms(1, "a b joins | b renews s | 3 x 300"), "a s3 | b a3");
    assert_eq!(forms(0, "a b joins | 3 x 300"), "a a3 | b a3");
}

#[test]
fn an_excluded_service_comes_plain_and_moves_no_window() {
    check("a c f joins | 2 x 300 | 1 x 300 of x | 2 x 300", "a s2 p1 s2 | c s2 p1 s2 | f b2 p1 b2");
}
