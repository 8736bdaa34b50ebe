//! Who a request comes from: the other end of the socket, or, if that is a trusted proxy, the client that
//! `X-Forwarded-For` names.
//!
//! Each proxy appends the address that called it to the right end of the header. So the entries are trusted
//! from the right, as long as trusted proxies wrote them; everything further left may be forged.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Once,
};

use http::{HeaderMap, HeaderName};

use crate::config::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client behind `peer`. The port is 0 if a proxy named the client.
pub fn of(peer: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> SocketAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let other_end = peer.ip().to_canonical();
    if !is_trusted(other_end) {
        if trusted.is_empty() && headers.contains_key(&FORWARDED_FOR) {
            warn_once(other_end);
        }
        return SocketAddr::new(other_end, peer.port());
    }
    let lines: Vec<&[u8]> = headers.get_all(&FORWARDED_FOR).iter().map(|line| line.as_bytes()).collect();
    let entries = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    let mut client = None;
    for entry in entries {
        // A known proxy would not have written an unreadable entry, so nothing left of it counts.
        let Some(address) = std::str::from_utf8(entry).ok().and_then(entry_address) else { break };
        client = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    match client {
        Some(client) => SocketAddr::new(client, 0),
        None => SocketAddr::new(other_end, peer.port()),
    }
}

/// The address of an entry: bare, in brackets, or followed by a port.
fn entry_address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_matches([' ', '\t']);
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: IpAddr = entry.parse().ok().or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

/// Warns about a proxy that is not configured. Once, because any client can cause it.
fn warn_once(peer: IpAddr) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %peer,
            "a request brings X-Forwarded-For, which is ignored: if a proxy of yours is in front, all its \
             clients count as one address; list it in listen.trusted_proxies"
        );
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::Config;

    fn networks() -> Vec<Network> {
        let sets = [r#"listen.trusted_proxies=["10.0.0.0/8", "192.0.2.7", "fd00::/8"]"#];
        Config::for_tests(&sets).expect("a configuration").listen.trusted_proxies
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_counts() {
        let trusted = networks();
        for (peer, lines, client) in [
            // Not a proxy, so its header is ignored.
            ("198.51.100.1:9", &["203.0.113.5"][..], "198.51.100.1:9"),
            ("198.51.100.1:9", &[], "198.51.100.1:9"),
            ("[2001:db8::1]:9", &["203.0.113.5"], "[2001:db8::1]:9"),
            // A proxy that sends no entry, or none that can be read.
            ("10.1.2.3:9", &[], "10.1.2.3:9"),
            ("10.1.2.3:9", &[""], "10.1.2.3:9"),
            ("10.1.2.3:9", &["unknown"], "10.1.2.3:9"),
            ("10.1.2.3:9", &["203.0.113.5, _hidden"], "10.1.2.3:9"),
            // One proxy, and many.
            ("10.1.2.3:9", &["203.0.113.5"], "203.0.113.5:0"),
            ("192.0.2.7:9", &["203.0.113.5"], "203.0.113.5:0"),
            ("192.0.2.8:9", &["203.0.113.5"], "192.0.2.8:9"),
            ("10.1.2.3:9", &["203.0.113.5, 10.9.9.9,192.0.2.7"], "203.0.113.5:0"),
            ("[fd00::1]:9", &["2001:db8::7"], "[2001:db8::7]:0"),
            // The client's own entry is further left.
            ("10.1.2.3:9", &["1.1.1.1, 203.0.113.5"], "203.0.113.5:0"),
            ("10.1.2.3:9", &["10.0.0.1, 203.0.113.5, 10.0.0.2"], "203.0.113.5:0"),
            ("10.1.2.3:9", &["1.1.1.1", "203.0.113.5"], "203.0.113.5:0"),
            ("10.1.2.3:9", &["203.0.113.5", "10.0.0.1", "10.0.0.2"], "203.0.113.5:0"),
            // An unreadable entry ends the search at the last readable one.
            ("10.1.2.3:9", &["203.0.113.5, garbage, 10.0.0.2"], "10.0.0.2:0"),
            ("10.1.2.3:9", &["203.0.113.5,, 10.0.0.2"], "10.0.0.2:0"),
            ("10.1.2.3:9", &["203.0.113.5", "\u{e4}", "10.0.0.2"], "10.0.0.2:0"),
            ("10.1.2.3:9", &["203.0.113.5, 10.0.0.256"], "10.1.2.3:9"),
            // All trusted: the leftmost counts.
            ("10.1.2.3:9", &["10.0.0.5, 10.0.0.6"], "10.0.0.5:0"),
            // Ports, brackets, and IPv4-mapped IPv6 addresses.
            ("10.1.2.3:9", &["203.0.113.5:4711"], "203.0.113.5:0"),
            ("10.1.2.3:9", &["[2001:db8::7]:4711"], "[2001:db8::7]:0"),
            ("10.1.2.3:9", &["[2001:db8::7]"], "[2001:db8::7]:0"),
            ("10.1.2.3:9", &["::ffff:203.0.113.5"], "203.0.113.5:0"),
            ("10.1.2.3:9", &["203.0.113.5, [::ffff:10.0.0.2]:80"], "203.0.113.5:0"),
            ("[::ffff:10.1.2.3]:9", &["203.0.113.5"], "203.0.113.5:0"),
            ("[::ffff:198.51.100.1]:9", &["203.0.113.5"], "198.51.100.1:9"),
            // Almost addresses.
            ("10.1.2.3:9", &["203.0.113.5:"], "10.1.2.3:9"),
            ("10.1.2.3:9", &["[203.0.113.5]"], "10.1.2.3:9"),
            ("10.1.2.3:9", &["2001:db8::7%eth0"], "10.1.2.3:9"),
            ("10.1.2.3:9", &["\"203.0.113.5\""], "10.1.2.3:9"),
            ("10.1.2.3:9", &["for=203.0.113.5"], "10.1.2.3:9"),
            ("10.1.2.3:9", &["0203.0.113.5"], "10.1.2.3:9"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).expect("a value"));
            }
            let found = of(peer.parse().expect(peer), &headers, &trusted);
            assert_eq!(found, client.parse().expect(client), "{peer} {lines:?}");
        }
    }

    #[test]
    fn without_proxies_the_other_end_counts() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("203.0.113.5"));
        let peer = "10.1.2.3:9".parse().expect("an address");
        assert_eq!(of(peer, &headers, &[]), peer);
    }
}
