//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::check::Problem;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a value has the wrong type. The parser's own words would show the line, which may hold a
    /// secret.
    #[error("configuration file {}{}: {message}", path.display(), at(*line))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong there.
        message: String,
    },
    /// Keys that mean nothing.
    #[error("{}", lines(.0))]
    Unknown(Vec<UnknownKey>),
    /// The value of an environment variable does not fit its key.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with its value.
        message: String,
    },
    /// Values that cannot be used, or not together.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// A key that means nothing, and the known one that resembles it most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// As written: `section.key` or the variable's name.
    pub key: String,
    /// The nearest known one, in the same form.
    pub nearest: String,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown configuration key {}; did you mean {}?", self.key, self.nearest)
    }
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

fn lines(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
