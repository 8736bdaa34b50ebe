//! `tidegate token`: makes and inspects subscribers' tokens with the keys of the configuration.

use std::{io::Read as _, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use tidegate_protocol::{OrgId, UserId};

use super::{
    Failure,
    args::{DataArgs, duration, now},
    print,
};
use crate::{
    auth::{TokenClaims, TokenVerifier, mint, parse_services},
    config::humane,
    metrics::Metrics,
};

/// Makes and inspects tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token and print it
    Create(Create),
    /// Show the content of a token, and whether the gateway accepts it
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    data: DataArgs,
    /// The org whose stream it allows to read
    #[arg(long)]
    org: OrgId,
    /// The user
    #[arg(long)]
    user: UserId,
    /// The services that it allows to see, separated by commas; * is all
    #[arg(long, value_name = "NAMES")]
    services: String,
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    expires_in: Duration,
    /// The kid of the key that signs it [default: the first secret]
    #[arg(long)]
    kid: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    data: DataArgs,
    /// The token, or - to read it from standard input
    token: String,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Token::Create(create) => create.run(),
            Token::Inspect(inspect) => inspect.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let services = parse_services(self.services.split(','))
            .map_err(|reason| Failure::Usage(format!("--services {reason}")))?;
        let loaded = self.data.load()?;
        let auth = &loaded.config.auth;
        let key = match &self.kid {
            // Public keys can only verify.
            None => auth.keys.iter().find(|key| key.secret().is_some()).ok_or(
                "auth.keys has no secret (HS256) to sign with: your issuer makes the tokens; \
                 `tidegate token inspect` shows whether the gateway accepts one",
            ),
            Some(kid) => auth
                .keys
                .iter()
                .find(|key| key.kid.as_ref() == Some(kid))
                .ok_or("--kid names no key of auth.keys"),
        };
        let key = key.map_err(|reason| Failure::Usage(reason.to_owned()))?;
        if self.expires_in > auth.max_token_life {
            return Err(Failure::Usage(format!(
                "--expires-in {} is longer than auth.max_token_life ({}): the gateway would refuse the token",
                humane(self.expires_in),
                humane(auth.max_token_life)
            )));
        }
        let issued_at = now();
        let lifetime = u64::try_from(self.expires_in.as_millis()).unwrap_or(u64::MAX);
        let expires_at = issued_at.saturating_add(lifetime);
        let claims = TokenClaims { org: self.org, user: self.user, services, issued_at, expires_at };
        print(format_args!("{}\n", mint(auth, key, &claims).map_err(Failure::failed)?))
    }
}

impl Inspect {
    fn run(self) -> Result<(), Failure> {
        let mut token = self.token;
        if token == "-" {
            token.clear();
            std::io::stdin()
                .take(1 << 20)
                .read_to_string(&mut token)
                .map_err(|error| Failure::Failed(format!("read standard input: {error}")))?;
        }
        let loaded = self.data.load()?;
        let limits = &loaded.config.limits;
        let verifier = TokenVerifier::new(&loaded.config.auth, limits.token_bytes.bytes());
        let now = now();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("start the runtime: {error}")))?;
        let inspection = runtime.block_on(async {
            verifier.keep_fresh(&Arc::new(Metrics::of_nothing()));
            verifier.inspect(token.trim(), now).await
        });
        let show = |part: &Option<serde_json::Value>| match part {
            Some(value) => format!("{value:#}"),
            None => "(not readable)".to_owned(),
        };
        print(format_args!("header {}\nclaims {}\n", show(&inspection.header), show(&inspection.claims)))?;
        for (what, found) in [("issuer", &inspection.issuer), ("signed by", &inspection.key)] {
            let found = found.as_deref().unwrap_or("none that was found");
            print(format_args!("{what}: {found}\n"))?;
        }
        match inspection.verdict {
            Ok(grant) => print(format_args!(
                "good: user {} may read {} of org {} for another {}\n",
                grant.user(),
                grant.filter().names().join(","),
                grant.org(),
                humane(Duration::from_secs(grant.expires_at().saturating_sub(now) / 1000)),
            )),
            Err(refusal) => Err(Failure::Failed(format!("refused ({}): {refusal}", refusal.code.name()))),
        }
    }
}
