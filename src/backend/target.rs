//! What it takes to open a session: where, as whom, by right of what.

use std::fmt;
use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::auth::{Keys, Secret};

/// What a login shows the server.
#[derive(Clone)]
pub enum Credential {
    /// What a client's own SCRAM login left: opens any server whose role has the same verifier.
    Keys(Keys),
    /// A stored password.
    Password(Secret),
    /// Nothing: only for servers that ask for nothing.
    Nothing,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys(_) => "Keys(***)",
            Self::Password(_) => "Password(***)",
            Self::Nothing => "Nothing",
        })
    }
}

/// One session to be opened.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub endpoint: Arc<Endpoint>,
    /// In which database.
    pub database: String,
    /// As which role.
    pub user: String,
    /// With which settings, as startup parameters.
    pub startup: Vec<(String, String)>,
    /// By right of what.
    pub credential: Credential,
    /// A schema without which the session is of no use.
    pub require_schema: Option<String>,
}
