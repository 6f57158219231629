//! What can be said to the console.

use super::config::Role;
use crate::protocol::{Report, SqlState};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Tells something; the word after SHOW, in upper case.
    Show(String),
    /// Holds tenants' new transactions, and waits until the running ones have ended.
    Pause(Which),
    /// Lets them go on.
    Resume(Which),
    /// Closes their server connections as they become free.
    Reconnect(Which),
    /// Ends their sessions now.
    Kill(Which),
    /// Ends one session now.
    KillClient(u64),
    /// Lets no new client in.
    Disable(Which),
    /// Lets clients in again.
    Enable(Which),
    /// Reads the configuration again.
    Reload,
    /// Ends the process; `wait` until the last client has left by itself.
    Shutdown {
        /// Clients are not told to leave.
        wait: bool,
    },
    /// Nothing was said.
    Empty,
    /// What a driver says on its own when a session begins.
    Set,
}

/// Whom a command is about, as the operator wrote it: all tenants, `tenant` or `tenant.module`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Everybody.
    All,
    /// This one.
    Named(String),
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// What the user is told: nothing like it is known, or something is missing.
    pub fn parse(text: &str) -> Result<Self, Report> {
        let text = text.trim().trim_end_matches(';').trim();
        let mut words = text.split_whitespace();
        let Some(first) = words.next() else { return Ok(Self::Empty) };
        let rest = text[first.len()..].trim();
        let which = || match unquoted(rest) {
            "" => Which::All,
            name => Which::Named(name.to_owned()),
        };
        Ok(match first.to_ascii_uppercase().as_str() {
            "SHOW" if rest.is_empty() => Self::Show("HELP".to_owned()),
            "SHOW" => Self::Show(rest.to_ascii_uppercase()),
            "SET" => Self::Set,
            "PAUSE" => Self::Pause(which()),
            "RESUME" => Self::Resume(which()),
            "RECONNECT" => Self::Reconnect(which()),
            "DISABLE" | "ENABLE" | "KILL" if rest.is_empty() => {
                return Err(syntax(format!("{} needs a tenant, or tenant.module", first.to_ascii_uppercase())));
            }
            "KILL" => Self::Kill(which()),
            "DISABLE" => Self::Disable(which()),
            "ENABLE" => Self::Enable(which()),
            "KILL_CLIENT" => match rest.parse() {
                Ok(id) => Self::KillClient(id),
                Err(_) => {
                    return Err(syntax("KILL_CLIENT needs the id of a client, as SHOW CLIENTS has it".to_owned()));
                }
            },
            "RELOAD" if rest.is_empty() => Self::Reload,
            "SHUTDOWN" => match rest.to_ascii_uppercase().as_str() {
                "" => Self::Shutdown { wait: false },
                "WAIT_FOR_CLIENTS" => Self::Shutdown { wait: true },
                _ => return Err(syntax("SHUTDOWN takes nothing, or WAIT_FOR_CLIENTS".to_owned())),
            },
            _ => return Err(syntax(format!("unknown command \"{first}\""))),
        })
    }

    /// Whether a user may say it.
    #[must_use]
    pub fn is_allowed(&self, role: Role) -> bool {
        role == Role::Admin || matches!(self, Self::Show(_) | Self::Empty | Self::Set)
    }

    /// The command tag of its answer.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reload => "RELOAD",
            Self::Shutdown { .. } => "SHUTDOWN",
            Self::Empty => "",
            Self::Set => "SET",
        }
    }
}

/// A name without the quotes around it.
fn unquoted(name: &str) -> &str {
    let inner = |quote| name.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(name)
}

fn syntax(message: String) -> Report {
    Report::error(SqlState::SYNTAX_ERROR, message).hint("SHOW HELP lists the commands.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_with_or_without_a_semicolon() {
        for (text, command) in [
            ("show pools;", Command::Show("POOLS".to_owned())),
            ("SHOW", Command::Show("HELP".to_owned())),
            ("pause", Command::Pause(Which::All)),
            (" Resume \"krn:acme:client:1\" ; ", Command::Resume(Which::Named("krn:acme:client:1".to_owned()))),
            ("KILL acme.finance", Command::Kill(Which::Named("acme.finance".to_owned()))),
            ("KILL_CLIENT 7", Command::KillClient(7)),
            ("SHUTDOWN wait_for_clients", Command::Shutdown { wait: true }),
            (";", Command::Empty),
            ("SET extra_float_digits = 3", Command::Set),
        ] {
            assert_eq!(Command::parse(text).unwrap(), command, "{text}");
        }
        for text in ["SELECT 1", "KILL", "ENABLE", "KILL_CLIENT x", "SHUTDOWN now", "RELOAD all"] {
            assert_eq!(Command::parse(text).unwrap_err().sqlstate, SqlState::SYNTAX_ERROR, "{text}");
        }
    }

    #[test]
    fn who_may_only_look_changes_nothing() {
        for text in
            ["PAUSE", "RESUME", "RECONNECT", "KILL a", "KILL_CLIENT 1", "DISABLE a", "ENABLE a", "RELOAD", "SHUTDOWN"]
        {
            let command = Command::parse(text).unwrap();
            assert!(command.is_allowed(Role::Admin) && !command.is_allowed(Role::Stats), "{text}");
        }
        assert!(Command::parse("SHOW STATS").unwrap().is_allowed(Role::Stats));
    }
}
