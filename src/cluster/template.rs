//! The data directory as `initdb` leaves it, made once per process: a copy takes a twentieth of the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;
use uuid::Uuid;

use super::error::Error;
use super::install::Install;

/// The template of this process, as long as any server made from it is there. Only a cache: without it all works, but
/// slower.
static CURRENT: Mutex<Weak<Template>> = Mutex::new(Weak::new());

/// An initialised data directory that no server runs in.
#[derive(Debug)]
pub(super) struct Template {
    install: Install,
    /// The superuser's password.
    pub(super) password: String,
    dir: TempDir,
}

impl Template {
    /// The one of this process, made if need be; blocks for as long as `initdb` takes.
    pub(super) fn current(install: &Install) -> Result<Arc<Self>, Error> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = current.upgrade()
            && template.install == *install
        {
            return Ok(template);
        }
        let template = Arc::new(Self::make(install.clone())?);
        *current = Arc::downgrade(&template);
        Ok(template)
    }

    fn make(install: Install) -> Result<Self, Error> {
        let dir = temporary_dir(&install)?;
        let password = Uuid::new_v4().simple().to_string();
        let password_file = dir.path().join("password");
        fs::write(&password_file, &password).map_err(Error::io("write", &password_file))?;
        install.give(&password_file)?;
        let mut command = install.command(install.program("initdb"), dir.path());
        command.args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
        command.args(["--auth=scram-sha-256", "--pwfile=password", "--pgdata=data"]);
        run("initdb", &mut command)?;
        Ok(Self { install, password, dir })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Copies the data directory into `dir` and returns the copy's path.
    pub(super) fn copy_into(&self, dir: &Path) -> Result<PathBuf, Error> {
        let data = dir.join("data");
        let mut command = self.install.command("cp", dir);
        run("cp", command.arg("-Rp").arg(self.path().join("data")).arg(&data))?;
        Ok(data)
    }
}

/// A new directory that belongs to the user that runs the server.
pub(super) fn temporary_dir(install: &Install) -> Result<TempDir, Error> {
    let dir = tempfile::Builder::new()
        .prefix("pgtenant-")
        .tempdir()
        .map_err(Error::io("make a directory in", std::env::temp_dir()))?;
    install.give(dir.path())?;
    Ok(dir)
}

fn run(program: &'static str, command: &mut Command) -> Result<(), Error> {
    let output = command.output().map_err(Error::io("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let output_text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Program { program, status: output.status, output: output_text })
}
