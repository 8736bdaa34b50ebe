//! Public keys that verify tokens: RSA, EC on P-256, Ed25519; from PEM text or from the numbers of a
//! JWK. A key is parsed and checked once, with the one algorithm that it is for, and cannot be used by
//! another.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rsa::PublicEncryptingKey,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    },
};

use super::JwtAlgorithm;

/// The size above which a file is surely no key.
pub(crate) const LONGEST_PEM: u64 = 64 * 1024;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A checked public key with its algorithm.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: JwtAlgorithm,
    key: Arc<ParsedPublicKey>,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && (*self.key).as_ref() == (*other.key).as_ref()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// What the bytes of a key's algorithm identifier (RFC 5280, 4.1.2.7) say it is.
const KINDS: [(&[u8], &str); 6] = [
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", "an RSA key"),
    (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", "an EC key on P-256"),
    (b"\x2b\x81\x04\x00\x22", "an EC key on P-384"),
    (b"\x2b\x81\x04\x00\x23", "an EC key on P-521"),
    (b"\x2b\x81\x04\x00\x0a", "an EC key on secp256k1"),
    (b"\x2b\x65\x70", "an Ed25519 key"),
];

fn kind_of(der: &[u8]) -> &'static str {
    // The algorithm is at the start; the key comes after it, and may hold any bytes.
    let front = &der[..der.len().min(32)];
    KINDS
        .iter()
        .find(|(id, _)| front.windows(id.len()).any(|window| window == *id))
        .map_or("a key of another kind", |(_, kind)| kind)
}

fn needs(algorithm: JwtAlgorithm) -> &'static str {
    match algorithm {
        JwtAlgorithm::Hs256 => "a secret",
        JwtAlgorithm::Rs256 => "an RSA key of 2048 to 8192 bits",
        JwtAlgorithm::Es256 => "an EC key on P-256",
        JwtAlgorithm::EdDsa => "an Ed25519 key",
    }
}

impl PublicKey {
    /// Reads PEM text (`-----BEGIN PUBLIC KEY-----`). Faults do not quote any of it.
    pub fn from_pem(algorithm: JwtAlgorithm, text: &[u8]) -> Result<Self, String> {
        let blocks = pem::parse_many(text)
            .map_err(|_| "is not PEM text: it must begin with -----BEGIN PUBLIC KEY-----".to_owned())?;
        if let Some(private) = blocks.iter().find(|block| block.tag().contains("PRIVATE KEY")) {
            return Err(format!(
                "holds a private key (BEGIN {}), which no gateway needs: give its public half \
                 (`openssl pkey -pubout`), and take the private key off this machine",
                private.tag()
            ));
        }
        let [block] = blocks.as_slice() else {
            return Err(match blocks.len() {
                0 => "is not PEM text: it must begin with -----BEGIN PUBLIC KEY-----".to_owned(),
                many => format!("holds {many} PEM blocks; it must hold one public key"),
            });
        };
        match block.tag() {
            "PUBLIC KEY" => {}
            "CERTIFICATE" => {
                return Err("holds a certificate; give the public key in it \
                     (`openssl x509 -pubkey -noout`)"
                    .to_owned());
            }
            "RSA PUBLIC KEY" => {
                return Err("holds an RSA key in the older form (BEGIN RSA PUBLIC KEY); convert it \
                     (`openssl rsa -RSAPublicKey_in -pubout`)"
                    .to_owned());
            }
            _ => return Err("holds something else than a public key (BEGIN PUBLIC KEY)".to_owned()),
        }
        let der = block.contents();
        let wrong = || format!("holds {}; {} needs {}", kind_of(der), algorithm.word(), needs(algorithm));
        let broken = || format!("holds {} that is damaged", kind_of(der));
        let kind = kind_of(der);
        let key = match algorithm {
            JwtAlgorithm::Rs256 if kind == "an RSA key" => {
                let bits = PublicEncryptingKey::from_der(der).map(|key| key.key_size_bits());
                match bits {
                    Ok(bits) if RSA_BITS.contains(&bits) => {
                        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).map_err(|_| broken())?
                    }
                    _ => {
                        return Err(format!(
                            "holds an RSA key that cannot be used; RS256 needs {}",
                            needs(algorithm)
                        ));
                    }
                }
            }
            JwtAlgorithm::Es256 if kind == "an EC key on P-256" => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).map_err(|_| broken())?
            }
            JwtAlgorithm::EdDsa if kind == "an Ed25519 key" => {
                ParsedPublicKey::new(&ED25519, der).map_err(|_| broken())?
            }
            _ => return Err(wrong()),
        };
        Ok(Self { algorithm, key: Arc::new(key) })
    }

    /// An RSA key for RS256 from modulus and exponent, big-endian.
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, &'static str> {
        // RFC 7518 6.3.1.1 knows no leading zeros; some signers write one all the same.
        let strip =
            |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|byte| *byte == 0).collect() };
        let (n, e) = (strip(n), strip(e));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err("its modulus is not of 2048 to 8192 bits");
        }
        // An even modulus is no product of two large primes; an exponent of 1 signs nothing.
        if n.last().is_none_or(|last| last % 2 == 0) {
            return Err("its modulus is even");
        }
        if e.is_empty() || e.len() > 4 || e == [1] || e.last().is_none_or(|last| last % 2 == 0) {
            return Err("its exponent is not an odd number from 3 to 4294967295");
        }
        let key = RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| "its numbers make no RSA key")?;
        Ok(Self { algorithm: JwtAlgorithm::Rs256, key: Arc::new(key) })
    }

    /// An EC key for ES256 from the coordinates of its point on P-256.
    pub(crate) fn p256(x: &[u8], y: &[u8]) -> Result<Self, &'static str> {
        if x.len() != 32 || y.len() != 32 {
            return Err("its coordinates are not of 32 bytes each");
        }
        let point = [&[4], x, y].concat();
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| "its point is not on the curve")?;
        Ok(Self { algorithm: JwtAlgorithm::Es256, key: Arc::new(key) })
    }

    /// An Ed25519 key for EdDSA.
    pub(crate) fn ed25519(x: &[u8]) -> Result<Self, &'static str> {
        if x.len() != 32 {
            return Err("it is not of 32 bytes");
        }
        let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| "it is no Ed25519 key")?;
        Ok(Self { algorithm: JwtAlgorithm::EdDsa, key: Arc::new(key) })
    }

    /// What it is for.
    pub fn algorithm(&self) -> JwtAlgorithm {
        self.algorithm
    }

    /// Whether `signature` is its signature of `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}
