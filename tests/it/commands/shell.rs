//! What shells and man(1) get from the program itself.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn pgtenant(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgtenant"));
    command.args(arguments).env_remove("PGTENANT_REGISTRY").env_remove("PGTENANT_CONFIG").stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn bash_completes_commands_and_flags_from_the_script() {
    let script = pgtenant(&["completions", "bash"]);
    assert!(script.status.success());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgtenant.bash");
    std::fs::write(&path, &script.stdout).unwrap();
    let complete = |words: &[&str]| {
        let count = words.len() - 1;
        let ask = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={count}; _pgtenant pgtenant {} {}; echo ${{COMPREPLY[@]}}",
            path.display(),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.last().map(|word| format!("'{word}'")).unwrap(),
            words[count - 1],
        );
        let answer = Command::new("bash").args(["-c", &ask]).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(complete(&["pgtenant", "reg"]).trim(), "registry");
    assert!(complete(&["pgtenant", "tenant", ""]).contains("reconcile"));
    assert_eq!(complete(&["pgtenant", "tenant", "suspend", "--gra"]).trim(), "--grace");
}

#[test]
fn every_shell_gets_a_script_and_an_unknown_one_is_told_which_there_are() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(pgtenant(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("unsubscribe"), "{shell}");
    }
    let unknown = pgtenant(&["completions", "ksh"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("bash, elvish, fish, powershell, zsh"));
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("share/man1");
    let made = pgtenant(&["man", "--dir", target.to_str().unwrap(), "--json"]);
    assert!(made.status.success());
    let pages: Value = serde_json::from_slice(&made.stdout).unwrap();
    for page in ["pgtenant.1", "pgtenant-serve.1", "pgtenant-registry-init.1", "pgtenant-tenant-login-add.1"] {
        assert!(pages["pages"].as_array().unwrap().iter().any(|name| name == page), "{page}");
        let text = std::fs::read_to_string(target.join(page)).unwrap();
        assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}");
    }
    assert_eq!(pages["pages"].as_array().unwrap().len(), std::fs::read_dir(&target).unwrap().count());
    let top = String::from_utf8(pgtenant(&["man"]).stdout).unwrap();
    assert!(top.contains(".TH pgtenant") && top.contains("completions"));
    let nowhere = pgtenant(&["man", "--dir", "/proc/nowhere"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8(nowhere.stderr).unwrap().contains("/proc/nowhere"));
}
