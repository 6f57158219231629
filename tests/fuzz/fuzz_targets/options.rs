//! The `options` of a start-up packet, as text and as one of its parameters: read as PostgreSQL would, and what a session may not set
//! from there never gets through.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::protocol::{Startup, parse_options};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(settings) = parse_options(text) {
        for setting in &settings {
            assert!(!setting.name.contains('-') && !setting.name.contains('='));
        }
        // Written out again with every character escaped, they are the same settings.
        let again: Vec<String> = settings.iter().map(|one| escaped(&format!("--{}={}", one.name, one.value))).collect();
        assert_eq!(parse_options(&again.join(" ")).as_ref(), Ok(&settings));
    } else {
        let report = parse_options(text).expect_err("refused").report();
        assert!(["42601", "42501"].contains(&report.sqlstate.0));
    }
    let startup = Startup::parse(3 << 16, format!("user\0u\0options\0{text}\0\0").as_bytes());
    if text.contains('\0') {
        return;
    }
    assert_eq!(startup.expect("a packet in order").get("options"), Some(text));
});

fn escaped(argument: &str) -> String {
    argument.chars().flat_map(|c| ['\\', c]).collect()
}
