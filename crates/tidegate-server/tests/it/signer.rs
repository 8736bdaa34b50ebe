//! Issuers for the tests: keys of every kind, and tokens that they sign, correctly and wrongly.

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as B64},
};
use serde_json::{Value, json};

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// A key pair or a secret, with a name.
pub struct Signer {
    /// The `kid` of its tokens.
    pub kid: String,
    pair: Pair,
}

impl Signer {
    fn new(kid: &str, pair: Pair) -> Self {
        Self { kid: kid.to_owned(), pair }
    }

    /// An RSA key of 2048 bits.
    pub fn rsa(kid: &str) -> Self {
        Self::new(kid, Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
    }

    fn on_curve(kid: &str, curve: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::new(kid, Pair::Ec(EcdsaKeyPair::generate(algorithm).expect("a key"), curve))
    }

    /// An EC key on P-256.
    pub fn p256(kid: &str) -> Self {
        Self::on_curve(kid, "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    /// An EC key on P-384.
    pub fn p384(kid: &str) -> Self {
        Self::on_curve(kid, "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    /// An EC key on secp256k1.
    pub fn secp256k1(kid: &str) -> Self {
        Self::on_curve(kid, "secp256k1", &ECDSA_P256K1_SHA256_FIXED_SIGNING)
    }

    /// An Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Pair::Ed(Ed25519KeyPair::generate().expect("a key")))
    }

    /// A secret.
    pub fn secret(kid: &str, bytes: impl AsRef<[u8]>) -> Self {
        Self::new(kid, Pair::Secret(bytes.as_ref().to_vec()))
    }

    /// Its algorithm.
    pub fn alg(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_, "P-256") => "ES256",
            Pair::Ec(_, "P-384") => "ES384",
            Pair::Ec(..) => "ES256K",
            Pair::Ed(_) => "EdDSA",
            Pair::Secret(_) => "HS256",
        }
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                let n = key.modulus().big_endian_without_leading_zero().to_vec();
                let e = key.exponent().big_endian_without_leading_zero().to_vec();
                json!({"kty": "RSA", "n": B64.encode(n), "e": B64.encode(e)})
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": B64.encode(x), "y": B64.encode(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": B64.encode(pair.public_key().as_ref())})
            }
            Pair::Secret(secret) => json!({"kty": "oct", "k": B64.encode(secret)}),
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk
    }

    /// The public half in DER.
    pub fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::Ec(pair, _) => pair.public_key().as_der(),
            Pair::Ed(pair) => pair.public_key().as_der(),
            Pair::Secret(_) => panic!("a secret has no public half"),
        }
        .expect("DER");
        der.as_ref().to_vec()
    }

    /// The public half as PEM text.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public half as an entry of `auth.keys`, in TOML.
    pub fn toml(&self) -> String {
        let (kid, alg) = (&self.kid, self.alg());
        match &self.pair {
            Pair::Secret(secret) => {
                let secret = std::str::from_utf8(secret).expect("text");
                format!("{{kid = \"{kid}\", secret = \"{secret}\"}}")
            }
            _ => format!("{{kid = \"{kid}\", algorithm = \"{alg}\", public_key = '''{}'''}}", self.pem()),
        }
    }

    /// Its signature.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("signed");
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, message).expect("signed").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
        }
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": self.alg(), "kid": self.kid})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_of(self.header().to_string(), claims.to_string())
    }

    /// A token of these bytes.
    pub fn token_of(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", B64.encode(header), B64.encode(claims));
        let signature = B64.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}
