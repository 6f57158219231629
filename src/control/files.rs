//! A module's migration files: numbered SQL files in a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;

use super::error::Error;
use super::place::hex;
use super::script::Script;

/// One migration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MigrationFile {
    /// Its number, by which files are ordered and known.
    pub(super) version: i64,
    /// Its name.
    pub(super) name: String,
    /// What is in it.
    pub(super) script: Script,
    /// SHA-256 of its text, whatever ends its lines.
    pub(super) checksum: String,
}

/// A module's files in their order.
pub(super) type MigrationFiles = Arc<[MigrationFile]>;

/// Reads a directory's migration files in their order.
pub(super) fn read(directory: &Path) -> Result<MigrationFiles, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error::ReadMigrations { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_none_or(|extension| extension != "sql") || name.starts_with('.') {
            continue;
        }
        let version = version(&name).ok_or_else(|| Error::MigrationName { path: path.clone() })?;
        files.push(understood(version, name, &std::fs::read_to_string(&path).map_err(failed(&path))?)?);
    }
    files.sort_by(|a, b| (a.version, &a.name).cmp(&(b.version, &b.name)));
    match files.windows(2).find(|pair| pair[0].version == pair[1].version) {
        Some(pair) => Err(Error::MigrationTwice { first: pair[0].name.clone(), second: pair[1].name.clone() }),
        None => Ok(files.into()),
    }
}

fn understood(version: i64, name: String, text: &str) -> Result<MigrationFile, Error> {
    // An editor's mark of UTF-8 and a checkout's line ends are not part of what it says.
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let checksum = checksum(&text);
    match Script::parse(text) {
        Ok(script) => Ok(MigrationFile { version, name, script, checksum }),
        Err(source) => Err(Error::MigrationText { name, source }),
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn checksum(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// The number at the head of a file's name, before `_`, `-` or the ending; Flyway's `V` before it is allowed.
fn version(name: &str) -> Option<i64> {
    let name = name.strip_prefix(['V', 'v']).unwrap_or(name);
    let (digits, rest) = name.split_at(name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    digits.parse().ok().filter(|_| rest.starts_with(['_', '-']) || rest == ".sql")
}

/// The absolute path of a directory of migrations, for the registry.
///
/// # Errors
/// [`Error::ReadMigrations`] when it is not there, and whatever is wrong with the files in it.
pub fn migrations_directory(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(|source| Error::ReadMigrations { path: path.to_owned(), source })?;
    read(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["10_c.sql", "0002_b.sql", "V1__a.sql", "README.md", ".3_d.sql"] {
            std::fs::write(directory.path().join(name), "SELECT 1").unwrap();
        }
        let files = read(directory.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| (file.version, file.name.as_str())).collect();
        assert_eq!(names, [(1, "V1__a.sql"), (2, "0002_b.sql"), (10, "10_c.sql")]);
    }

    #[test]
    fn a_file_without_a_number_or_with_anothers_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("1_a.sql"), "").unwrap();
        std::fs::write(directory.path().join("01_b.sql"), "").unwrap();
        assert!(matches!(read(directory.path()), Err(Error::MigrationTwice { .. })));
        std::fs::remove_file(directory.path().join("01_b.sql")).unwrap();
        for name in ["orders.sql", "99999999999999999999_x.sql", "V1.2__x.sql", "U0001__x.sql", "R__x.sql"] {
            std::fs::write(directory.path().join(name), "").unwrap();
            assert!(matches!(read(directory.path()), Err(Error::MigrationName { .. })), "{name}");
            std::fs::remove_file(directory.path().join(name)).unwrap();
        }
    }

    #[test]
    fn line_ends_and_marks_of_editors_change_no_checksum() {
        let file = |text| understood(1, "1_a.sql".to_owned(), text).unwrap();
        assert_eq!(file("SELECT 1;\nSELECT 2"), file("\u{feff}SELECT 1;\r\nSELECT 2"));
        assert_ne!(file("SELECT 1").checksum, file("SELECT 2").checksum);
    }
}
