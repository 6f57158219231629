//! The `options` parameter of a startup message: PostgreSQL's command-line switches (`pg_split_opts` and `process_postgres_switches`).

use super::report::Report;
use super::sqlstate::SqlState;

/// The switches of `postgres` that take a value, other than those that are settings.
const SWITCHES_WITH_VALUE: &str = "BCDdfhkNprStvW";
/// The switches of `postgres` that take none.
const SWITCHES_WITHOUT_VALUE: &str = "bEeFijlnOPsT";

/// One setting out of `options`: `-c name=value`, `-cname=value` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionSetting {
    /// The name, dashes turned into underscores as PostgreSQL does, otherwise as given.
    pub name: String,
    /// The value, escapes resolved.
    pub value: String,
}

/// Why `options` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `-c name` without `=value`, or `--name` likewise.
    #[error("{0} requires a value")]
    NoValue(String),
    /// Not a switch of `postgres`, or not a switch at all.
    #[error("invalid command-line argument for server process: {0}")]
    Invalid(String),
    /// A switch of `postgres` that is more than a setting.
    #[error("permission denied to use command-line switch \"-{0}\"")]
    Denied(char),
}

impl OptionsError {
    /// What the client is told.
    #[must_use]
    pub fn report(&self) -> Report {
        match self {
            Self::NoValue(_) | Self::Invalid(_) => Report::fatal(SqlState::SYNTAX_ERROR, self.to_string()),
            Self::Denied(_) => Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, self.to_string())
                .hint("Give settings as \"-c name=value\" or \"--name=value\"."),
        }
    }
}

/// Reads `options` as PostgreSQL would, settings in their order.
///
/// # Errors
/// An [`OptionsError`] for whatever is not a setting.
pub fn parse_options(options: &str) -> Result<Vec<OptionSetting>, OptionsError> {
    let mut settings = Vec::new();
    let mut arguments = split(options).into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            // getopt's end of switches: nothing may follow, since nothing but switches is allowed here.
            match arguments.next() {
                None => break,
                Some(next) => return Err(OptionsError::Invalid(next)),
            }
        }
        let setting = match argument.strip_prefix("--") {
            Some(long) => setting("--", long)?,
            None => match short_switch(&argument)? {
                "" => match arguments.next() {
                    Some(next) => setting("-c ", &next)?,
                    None => return Err(OptionsError::Invalid(argument)),
                },
                attached => setting("-c ", attached)?,
            },
        };
        settings.push(setting);
    }
    Ok(settings)
}

/// What is attached to a `-c`; every other argument is an error.
fn short_switch(argument: &str) -> Result<&str, OptionsError> {
    let Some(switch) = argument.strip_prefix('-') else { return Err(OptionsError::Invalid(argument.to_owned())) };
    match switch.chars().next() {
        Some('c') => Ok(&switch[1..]),
        Some(known) if SWITCHES_WITH_VALUE.contains(known) || SWITCHES_WITHOUT_VALUE.contains(known) => {
            Err(OptionsError::Denied(known))
        }
        _ => Err(OptionsError::Invalid(argument.to_owned())),
    }
}

/// PostgreSQL's `ParseLongOption`: up to the first `=` is the name, in which a dash means an underscore.
fn setting(switch: &str, text: &str) -> Result<OptionSetting, OptionsError> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(OptionsError::NoValue(format!("{switch}{text}")));
    };
    Ok(OptionSetting { name: name.replace('-', "_"), value: value.to_owned() })
}

/// PostgreSQL's `pg_split_opts`: arguments end at whitespace; a backslash takes the next character as it is.
fn split(options: &str) -> Vec<String> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let mut arguments = Vec::new();
    let mut left = options.trim_start_matches(is_space);
    while !left.is_empty() {
        let mut argument = String::new();
        let mut chars = left.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => argument.extend(chars.next()),
                c if is_space(c) => break,
                c => argument.push(c),
            }
        }
        arguments.push(argument);
        left = chars.as_str().trim_start_matches(is_space);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(options: &str) -> Vec<(String, String)> {
        parse_options(options).unwrap().into_iter().map(|s| (s.name, s.value)).collect()
    }

    fn one(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn all_spellings_of_a_setting_are_read() {
        for options in ["-c tenant=acme", "-ctenant=acme", "--tenant=acme", "  -c\ttenant=acme \n", "-c tenant=acme --"]
        {
            assert_eq!(pairs(options), one("tenant", "acme"), "{options}");
        }
        assert_eq!(pairs("--search-path=a"), one("search_path", "a"));
        assert_eq!(pairs("-c search-path=a-b"), one("search_path", "a-b"));
        assert_eq!(pairs("-c x=a=b"), one("x", "a=b"));
        assert_eq!(pairs("-c x="), one("x", ""));
        assert_eq!(pairs(""), []);
    }

    #[test]
    fn backslashes_escape_whitespace_and_themselves() {
        assert_eq!(pairs(r"-c app=a\ b\\c"), one("app", r"a b\c"));
        assert_eq!(pairs("-c x=y\\"), one("x", "y"));
        assert_eq!(pairs(r"\-c x=\y"), one("x", "y"));
    }

    #[test]
    fn a_plus_is_a_plus() {
        assert_eq!(pairs("-c x=a+b"), one("x", "a+b"));
    }

    #[test]
    fn settings_keep_their_order_so_that_the_last_can_win() {
        let values: Vec<_> = pairs("-csearch_path=a --search_path=b").into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["a", "b"]);
    }

    #[test]
    fn switches_that_are_more_than_settings_are_denied() {
        for switch in ["-d", "-d5", "-e", "-f", "-ec x=y", "-W 9", "-r file", "-D /tmp", "-F", "-T", "-tpa"] {
            let error = parse_options(switch).unwrap_err();
            assert_eq!(error.report().sqlstate.0, "42501", "{switch}");
        }
    }

    #[test]
    fn what_is_no_switch_is_refused_in_postgres_words() {
        for bad in ["x", "-", "-z", "-c", "tenant=acme", "-c a=b c", "-- x", "\\ ", "-é"] {
            let report = parse_options(bad).unwrap_err().report();
            assert_eq!(report.sqlstate.0, "42601", "{bad}");
            assert!(report.message.starts_with("invalid command-line argument for server process: "), "{bad}");
        }
        assert_eq!(parse_options("-c x").unwrap_err().report().message, "-c x requires a value");
        assert_eq!(parse_options("--x-y").unwrap_err().report().message, "--x-y requires a value");
        assert_eq!(parse_options("-c --x").unwrap_err().report().message, "-c --x requires a value");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(options in "[-a-z=\\\\ \t\n\u{e9}c]{0,60}") {
            let _ = parse_options(&options);
        }

        #[test]
        fn an_escaped_setting_survives_the_round_trip(name in "[a-z_.]{1,12}", value in any::<String>()) {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            for options in [format!("-c {name}={escaped}"), format!("-c{name}={escaped}"), format!("--{name}={escaped}")] {
                prop_assert_eq!(pairs(&options), one(&name, &value));
            }
        }
    }
}
