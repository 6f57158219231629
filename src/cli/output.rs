//! How commands speak: tables for people, JSON for programs, one line for an error.

use std::fmt;
use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The error and its causes in one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        for (n, cause) in self.0.chain().enumerate() {
            let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            // Some libraries repeat their cause in their own text.
            if last.ends_with(&text) {
                continue;
            }
            if n > 0 {
                f.write_str(": ")?;
            }
            f.write_str(&text)?;
            last = text;
        }
        Ok(())
    }
}

/// Prints JSON, alone, on standard output.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// Prints lines on standard output.
pub(super) fn print(text: impl fmt::Display) -> anyhow::Result<()> {
    print_raw(format!("{text}\n").as_bytes())
}

/// Prints bytes on standard output. A reader that has gone (`| head`) has read all that it wanted.
pub(super) fn print_raw(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Prints a remark on standard error, where it is in no program's way.
pub(super) fn remark(text: impl fmt::Display) {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table with these columns.
pub(super) fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns);
    table
}

/// What stands in a table where there is nothing.
pub(super) fn or_dash(text: Option<impl fmt::Display>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}
