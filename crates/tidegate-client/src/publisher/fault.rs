//! What it means that a request has failed without an answer.

use std::{error::Error, io};

use reqwest::Url;
use rustls::CertificateError;

use super::answer::{Among, Verdict, Why};
use crate::gateway::transport;

/// What becomes of the events of a request to `url` that has failed with `error`. If there was no connection, or no
/// TLS handshake, nothing was sent, so nothing can have been stored. A certificate that is not accepted is final.
pub(super) fn verdict_of(error: reqwest::Error, url: &Url) -> Verdict {
    let is_known = error.is_connect();
    let origin = url.origin().ascii_serialization();
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(flaw)) if is_known => {
            let detail = format!("the certificate of {origin} {}", words(flaw));
            return Verdict::Refused { why: Why::new("certificate", detail), errors: Vec::new() };
        }
        Some(fault) if is_known => {
            let detail = format!(
                "no answer came: the TLS handshake with {origin} failed ({fault}): is that address one for https?"
            );
            return again(detail, is_known);
        }
        _ => {}
    }
    again(format!("no answer came: {}", transport(error)), is_known)
}

fn again(detail: String, is_known: bool) -> Verdict {
    Verdict::Again { why: Why::new("unreachable", detail), is_known, asked_ms: 0, among: Among::Request }
}

fn words(flaw: &CertificateError) -> String {
    match flaw {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired: renew it, or set the clock of this machine right".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: replace it, or set the clock of this machine right".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name: give the name that it is for as the url, or get a certificate for this one"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "comes from no CA that this process trusts: give the CA's certificate to root_certificates(..)"
                .to_owned()
        }
        other => format!("is refused ({other}): replace it"),
    }
}

/// The error of rustls in `error`. An `io::Error` does not give the error that it holds as its source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}
