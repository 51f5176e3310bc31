//! One token: what it claims, and whether its claims hold.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, dangerous, decode, decode_header};
use serde::Deserialize;

use super::keys::Verifier;
use crate::ingress::error::Error;

/// How far the issuer's clock and ours may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// A token that claims to be of our issuer. Nothing else is known of it yet.
pub(super) struct Token<'a> {
    text: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

impl<'a> Token<'a> {
    /// # Errors
    /// When it is no signed JWT, or that of another issuer: then nobody needs to be asked for its key.
    pub(super) fn read(text: &'a str, issuer: &str) -> Result<Self, Error> {
        let not_signed =
            "it is no JWT that is signed with one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
        let header = decode_header(text).map_err(|_| Error::BadToken(not_signed))?;
        if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(Error::BadToken(not_signed));
        }
        // Extensions that must be understood (RFC 7515, section 4.1.11); none is.
        if header.crit.is_some() {
            return Err(Error::BadToken("its header has 'crit', which is not supported"));
        }
        // Only to know whom to ask: what is claimed here is checked again with the signature.
        let claimed: Issuer =
            dangerous::insecure_decode_claims(text).map_err(|_| Error::BadToken("it names no issuer"))?;
        if claimed.iss != issuer {
            return Err(Error::BadToken(WRONG_ISSUER));
        }
        Ok(Self { text, algorithm: header.alg, key_id: header.kid })
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its subject, when everything about it holds.
    pub(super) fn verify(&self, verifier: &Verifier, issuer: &str, audiences: &[String]) -> Result<String, Error> {
        let mut validation = Validation::new(self.algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[issuer]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
        match decode::<Claims>(self.text, &verifier.key, &validation) {
            Ok(token) => Ok(token.claims.sub),
            Err(error) => Err(fault(error.kind(), audiences)),
        }
    }
}

const WRONG_ISSUER: &str = "it is of another issuer than the bridge's --oidc-issuer";

/// In words that hold nothing of the token.
fn fault(kind: &ErrorKind, audiences: &[String]) -> Error {
    Error::BadToken(match kind {
        ErrorKind::InvalidAudience => {
            return Error::WrongAudience(audiences.first().cloned().unwrap_or_default());
        }
        ErrorKind::InvalidSignature => "its signature is not that of its issuer",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => WRONG_ISSUER,
        ErrorKind::MissingRequiredClaim(_) => "it has not all of the claims iss, sub, aud and exp",
        _ => "it cannot be read",
    })
}
