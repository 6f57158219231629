//! Whom the proxies run as, and their files, which nobody else may read.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};
use pgtenant::cluster::Cluster;

/// User and group that the proxies run as, where we are root (PgBouncer refuses root).
pub(crate) type Owner = Option<(u32, u32)>;

/// Somebody without rights, where we are root.
pub(crate) fn owner() -> Result<Owner> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = user.context("no user \"postgres\" or \"nobody\" to run the proxies as")?;
    ensure!(!user.uid.is_root(), "user {} is root", user.name);
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// Makes a directory for the proxies, in the server's own, so that it goes with that, even if we are killed.
pub(crate) fn directory(cluster: &Cluster, owner: Owner) -> Result<PathBuf> {
    let directory = cluster.socket_dir().join("proxies");
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    if let Some((uid, gid)) = owner {
        chown(&directory, Some(uid), Some(gid))?;
    }
    Ok(directory)
}

/// Writes a file for the proxies.
pub(crate) fn write(directory: &Path, owner: Owner, name: &str, content: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = owner {
        chown(&path, Some(uid), Some(gid))?;
    }
    Ok(path)
}
