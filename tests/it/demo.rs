//! The demo, as it is run from a fresh clone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn demo(temporary: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgtenant"));
    command.arg("demo").args(arguments).env("TMPDIR", temporary);
    for variable in ["PGTENANT_REGISTRY", "PGTENANT_CONFIG", "PGTENANT_PROXY"] {
        command.env_remove(variable);
    }
    command
}

/// A directory for temporary files that the server's user may use, empty but for what the demo leaves.
fn temporary() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::Builder::new().prefix("d").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

#[test]
fn the_demo_checks_itself_in_every_way_of_naming_a_tenant() {
    let temporary = temporary();
    let output = demo(temporary.path(), &["--once", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = checks.as_array().unwrap();
    assert!(checks.len() >= 9 + 2 * 8, "{checks:?}");
    for tenant in ["acme", "globex", "initech"] {
        assert!(checks.iter().any(|check| check["tenant"] == tenant));
    }
    assert!(checks.iter().all(|check| check["holds"] == true));
}

#[test]
fn an_interrupt_ends_the_demo_and_leaves_nothing() {
    let temporary = temporary();
    let mut running = demo(temporary.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Ctrl-C")), "the demo says what there is");
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.to_string_lossy().contains("template")), "{left:?}");
}
