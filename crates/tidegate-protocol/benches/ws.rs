//! How fast frames are read and written: `cargo bench -p tidegate-protocol --bench ws`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_protocol::ws::{FrameBuilder, Limits, MessageReader, text_frame};

const SCRATCH_BYTES: usize = 16 * 1024;

/// A client's frame with this payload.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(0xFE);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0xFF);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i % 4]));
    frame
}

/// Feeds `bytes` as a socket would, a scratch at a time; how many events they made.
fn read_all(reader: &mut MessageReader, bytes: &mut [u8]) -> usize {
    let mut events = 0;
    for mut input in bytes.chunks_mut(SCRATCH_BYTES) {
        while let Ok(Some(event)) = reader.read(&mut input) {
            black_box(event);
            events += 1;
        }
    }
    events
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("ws_read");
    let greek = "κόσμε ".repeat(64 * 1024 / 12);
    for (name, bytes, events) in [
        ("text_64_bytes_x_200", masked(0x81, &[b'x'; 64]).repeat(200), 200),
        ("text_64_kib_ascii", masked(0x81, &[b'x'; 64 * 1024]), 1),
        ("text_64_kib_greek", masked(0x81, greek.as_bytes()), 1),
        ("binary_64_kib", masked(0x82, &[0xFE; 64 * 1024]), 1),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            // Reading unmasks in place, so each iteration has its own copy.
            b.iter_batched_ref(
                || (MessageReader::new(Limits::default()), bytes.clone()),
                |(reader, bytes)| assert_eq!(read_all(reader, bytes), events),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("ws_write");
    for bytes in [64, 1024, 64 * 1024] {
        let payload = "x".repeat(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("text_frame_{bytes}_bytes"), |b| {
            b.iter(|| text_frame(black_box(&payload)));
        });
    }
    // As a batch is assembled: pieces of 300 bytes, the size guessed too small.
    let piece = [b'x'; 300];
    group.throughput(Throughput::Bytes(20 * 300));
    group.bench_function("builder_20_pieces_of_300_bytes", |b| {
        b.iter(|| {
            let mut frame = FrameBuilder::with_capacity(4096);
            for _ in 0..20 {
                frame.payload_mut().extend_from_slice(black_box(&piece));
            }
            frame.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, read, write);
criterion_main!(benches);
