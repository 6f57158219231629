//! Where PostgreSQL's programs are, and whom they run as.

use std::cmp::Reverse;
use std::env;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, User};

use super::error::Error;

/// Where Debian keeps the programs of each major version.
const VERSIONS_DIR: &str = "/usr/lib/postgresql";

/// An installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    bin: PathBuf,
    owner: Option<Owner>,
}

/// The unprivileged user that runs the server when we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Install {
    /// Finds the server programs: in `PGTENANT_PG_BIN`, else in `PATH`, else the newest of `/usr/lib/postgresql/*/bin`.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], and [`Error::NoUser`] for root on a machine without users.
    pub fn find() -> Result<Self, Error> {
        let chosen = env::var_os("PGTENANT_PG_BIN").map(PathBuf::from);
        let bin = match chosen {
            Some(dir) => Some(dir).filter(|dir| has_programs(dir)),
            None => in_path().or_else(newest_version),
        };
        Ok(Self { bin: bin.ok_or(Error::NotInstalled)?, owner: owner()? })
    }

    /// One of its programs, such as `postgres` or `psql`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A command that runs as the unprivileged user, if we are root, in a directory that this user can enter.
    pub(super) fn command(&self, program: impl AsRef<Path>, dir: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(dir);
        if let Some(Owner { uid, gid }) = self.owner {
            // The standard library also drops all supplementary groups when root sets a uid.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to the user that runs the server.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        match self.owner {
            Some(Owner { uid, gid }) => {
                chown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path))
            }
            None => Ok(()),
        }
    }
}

fn has_programs(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

fn in_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // A link in PATH leads to the directory with all the programs, `psql` and `pg_ctl` included.
    let dir = env::split_paths(&path).find(|dir| has_programs(dir))?;
    let real = dir.join("postgres").canonicalize().ok()?;
    real.parent().filter(|dir| has_programs(dir)).map(Path::to_path_buf).or(Some(dir))
}

fn newest_version() -> Option<PathBuf> {
    let entries = std::fs::read_dir(VERSIONS_DIR).ok()?;
    let versions = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        has_programs(&bin).then_some((Reverse(major), bin))
    });
    versions.min().map(|(_, bin)| bin)
}

fn owner() -> Result<Option<Owner>, Error> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let found = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = found.ok_or(Error::NoUser)?;
    Ok(Some(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}
