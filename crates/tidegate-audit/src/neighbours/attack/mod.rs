//! The attacks: what one org with valid credentials can do from outside. Each is one function, which is
//! repeated by as many tasks as [`Attack::parallel`] says until the process ends.

mod http2;
mod publishing;
mod reading;
mod sockets;

use std::io;

use clap::ValueEnum;

use super::attacker::Attacker;

/// An attack, or a few at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// One key fills the log up to log.max_bytes with events that the dedup window keeps
    DiskFill,
    /// One key publishes so much that the oldest events of all orgs are removed
    HistoryEvict,
    /// Requests of a thousand events, one after the other
    Bulk,
    /// Requests of a thousand events with ids, until the dedup window is full
    DedupFill,
    /// Publishes whose bodies never come
    BodiesNever,
    /// Publishes whose bodies come at a few bytes a second (all together 11 KB/s)
    BodiesDribble,
    /// Publishes of 4 MB of which the last byte never comes
    BodiesUnfinished,
    /// The same as bodies-never over HTTP/2, a hundred on a connection
    BodiesHttp2,
    /// Bodies of 64 KiB that inflate to 64 MiB
    ZipBomb,
    /// Bodies of one object with half a million keys, and events of 20,000 keys
    JsonKeys,
    /// Bodies nested two million levels deep
    JsonDepth,
    /// Events with 200,000 unknown fields, each one letter away from a known one
    JsonFields,
    /// HTTP/2 with a window of 0 and 100 history requests on a connection
    H2WindowZero,
    /// History requests over HTTP/1.1, eight on a socket, whose answers are not read
    H1Unread,
    /// History requests whose answers are read byte by byte (slow reads)
    SlowReads,
    /// History with limit=1 for a service without events, behind 12,000 small events
    Scan,
    /// The same behind 75 MB of large events
    ScanLarge,
    /// Streams with tail=1 for a service without events
    ScanTail,
    /// 120 readers with different services=, and an event of 250 KB
    FiltersEvent,
    /// The same and a request of 3.7 MB
    FiltersRequest,
    /// Readers with so many filters that they take every compressor
    Compressors,
    /// Streams that begin a thousand events before the head, until every replay place is taken
    Replays,
    /// Streams that read nothing of their own org's events
    SlowReaders,
    /// 350 sockets of one address that say nothing
    SilentSockets,
    /// 64 sockets on the operators' listener that say nothing
    AdminSilent,
    /// Requests whose heads come byte by byte (slowloris)
    SlowHeads,
    /// Sockets that are opened and reset
    ConnectClose,
    /// Streams that are opened and closed
    StreamStorm,
    /// Requests with as many and as large headers as may be, and more
    HeaderFlood,
    /// Requests with tokens whose signatures are wrong
    BadTokens,
    /// Requests that are reset at once (CVE-2023-44487)
    RapidReset,
    /// Frames that break a rule, so that the gateway resets the stream (CVE-2019-9514, CVE-2025-8671)
    ProvokedResets,
    /// Header blocks without end (CVE-2024-27316)
    Continuation,
    /// One long header named by reference again and again (an HPACK bomb, CVE-2016-6581)
    HpackBomb,
    /// Answers in windows of one byte (CVE-2019-9511)
    H2Dribble,
    /// PING frames (CVE-2019-9512)
    H2Pings,
    /// PRIORITY frames that turn the tree of streams over (CVE-2019-9513)
    H2Priority,
    /// SETTINGS frames (CVE-2019-9515)
    H2Settings,
    /// Headers with empty names (CVE-2019-9516)
    H2EmptyHeaders,
    /// Large windows, and a socket that is not read (CVE-2019-9517)
    H2Unread,
    /// DATA frames without data (CVE-2019-9518)
    H2EmptyData,
    /// filters-event, bodies-dribble, scan, h2-window-zero and rapid-reset at the same time
    Mixed,
    /// slow-readers, slow-heads, bulk and dedup-fill at the same time
    MixedSlow,
}

impl Attack {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The single attacks that it consists of.
    pub fn parts(self) -> &'static [Self] {
        match self {
            Self::Mixed => {
                &[Self::FiltersEvent, Self::BodiesDribble, Self::Scan, Self::H2WindowZero, Self::RapidReset]
            }
            Self::MixedSlow => &[Self::SlowReaders, Self::SlowHeads, Self::Bulk, Self::DedupFill],
            single => {
                let variants = Self::value_variants();
                let at = variants.iter().position(|attack| *attack == single).unwrap_or(0);
                &variants[at..=at]
            }
        }
    }

    /// Settings of the gateway that it needs beside the common ones, so that a pool is small enough to be
    /// filled in seconds.
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Self::DiskFill => &["log.max_bytes=\"64MiB\""],
            Self::HistoryEvict => {
                &["log.max_bytes=\"64MiB\"", "dedup.window=\"1s\"", "log.erase_within=\"3m\""]
            }
            Self::SilentSockets | Self::SlowHeads => &[
                "limits.connections=150",
                "limits.connections_per_org=150",
                "limits.connections_per_user=150",
                "limits.publishes_in_flight=100",
            ],
            _ => &[],
        }
    }

    /// How many tasks do it, over all orgs that attack.
    pub fn parallel(self) -> usize {
        match self {
            Self::DiskFill | Self::HistoryEvict | Self::DedupFill => 4,
            // More than `limits.publishes_in_flight`.
            Self::BodiesNever | Self::BodiesDribble => 400,
            Self::BodiesHttp2 => 6,
            Self::BodiesUnfinished => 200,
            Self::H2WindowZero => 12,
            Self::H1Unread => 120,
            Self::SlowReads => 300,
            // One publishes.
            Self::FiltersEvent | Self::FiltersRequest => 121,
            Self::Compressors => 81,
            // More than `limits.replays_waiting`.
            Self::Replays | Self::SlowReaders => 200,
            Self::SilentSockets | Self::SlowHeads => 350,
            Self::AdminSilent => 64,
            Self::ConnectClose | Self::StreamStorm => 16,
            Self::Mixed | Self::MixedSlow => 0,
            Self::H2Unread => 6,
            _ => 8,
        }
    }

    /// Publishes what it needs in the attacker's log.
    pub async fn prepare(self, me: &Attacker) -> anyhow::Result<()> {
        match self {
            Self::H2WindowZero | Self::H1Unread | Self::SlowReads | Self::H2Dribble | Self::H2Unread => {
                publishing::fill(me, 3).await
            }
            Self::ScanLarge => publishing::fill(me, 21).await,
            Self::Scan | Self::ScanTail | Self::Replays => publishing::fill_small(me, 12).await,
            _ => Ok(()),
        }
    }

    /// Does it once, as task `number` of one org.
    pub async fn once(self, me: &Attacker, number: usize) -> io::Result<()> {
        match self {
            Self::DiskFill | Self::HistoryEvict => publishing::large_requests(me).await,
            Self::Bulk => publishing::bulk(me, false).await,
            Self::DedupFill => publishing::bulk(me, true).await,
            Self::BodiesNever => publishing::body_that_never_comes(me).await,
            Self::BodiesDribble => publishing::body_that_dribbles(me).await,
            Self::BodiesUnfinished => publishing::body_without_its_end(me).await,
            Self::BodiesHttp2 => http2::bodies_that_never_come(me).await,
            Self::ZipBomb => publishing::zip_bomb(me).await,
            Self::JsonKeys => publishing::json_of_many_keys(me, number).await,
            Self::JsonDepth => publishing::json_without_end(me).await,
            Self::JsonFields => publishing::json_of_unknown_fields(me).await,
            Self::H2WindowZero => http2::window_of_zero(me).await,
            Self::H1Unread => reading::history_unread(me, number).await,
            Self::SlowReads => reading::history_read_slowly(me, number).await,
            Self::Scan | Self::ScanLarge => reading::scan(me, number).await,
            Self::ScanTail => reading::scan_tail(me, number).await,
            Self::FiltersEvent => reading::filters(me, number, 1).await,
            Self::FiltersRequest => reading::filters(me, number, 15).await,
            Self::Compressors => reading::compressors(me, number).await,
            Self::Replays => reading::replay(me, number).await,
            Self::SlowReaders => reading::slow_reader(me, number).await,
            Self::SilentSockets => sockets::silent(me, me.public).await,
            Self::AdminSilent => sockets::silent(me, me.admin).await,
            Self::SlowHeads => sockets::slow_head(me, number).await,
            Self::ConnectClose => sockets::connect_and_reset(me).await,
            Self::StreamStorm => sockets::stream_and_close(me, number).await,
            Self::HeaderFlood => sockets::headers(me, number).await,
            Self::BadTokens => sockets::bad_tokens(me, number).await,
            Self::RapidReset => http2::rapid_reset(me).await,
            Self::ProvokedResets => http2::provoked_resets(me).await,
            Self::Continuation => http2::continuation(me).await,
            Self::HpackBomb => http2::hpack_bomb(me).await,
            Self::H2Dribble => http2::dribble(me).await,
            Self::H2Pings => http2::pings(me).await,
            Self::H2Priority => http2::priority(me).await,
            Self::H2Settings => http2::settings(me).await,
            Self::H2EmptyHeaders => http2::empty_headers(me).await,
            Self::H2Unread => http2::unread(me).await,
            Self::H2EmptyData => http2::empty_data(me).await,
            Self::Mixed | Self::MixedSlow => Ok(()),
        }
    }
}
