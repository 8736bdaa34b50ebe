//! The gateway over real sockets: the built binary on free ports of loopback, and clients that speak HTTP and
//! WebSocket byte by byte, so that they can also speak them wrongly.
//!
//! Nothing here sleeps or measures time: a test checks again until a state is reached, with a deadline that
//! only a hang reaches.

mod client;
mod gateway;
mod held_node;
mod key_server;
mod schema;
mod secrets;
mod signer;

mod admin;
mod auth;
mod bad_input;
mod bad_names;
mod bad_requests;
mod bounds;
mod browsers;
mod cloudevents;
mod codes;
mod compression;
mod connections;
mod content_coding;
mod drain;
mod ends;
mod evict;
mod files;
mod history;
mod hostile;
mod hostile_sets;
mod http2;
mod http2_abuse;
mod in_flight;
mod issuers;
mod keep_alive;
mod limits;
mod log_check;
mod log_full;
mod memory;
mod metrics;
mod openapi;
mod orgs;
mod proxies;
mod publish;
mod publish_orgs;
mod quotas;
mod replays;
mod reread;
mod resident;
mod rounds;
mod runs;
mod rust_client;
mod rust_publisher;
mod seam;
mod slices;
mod slow;
mod stderr;
mod stream_resume;
mod stream_sse;
mod stream_ws;
mod systemd;
mod unknown;
mod watched;
