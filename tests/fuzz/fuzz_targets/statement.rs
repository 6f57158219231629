//! The scan of statement text: whatever the pieces, nothing that the whole shows may be missed; and the close look at it, which may
//! find nothing that the scan has not seen.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::protocol::{Effects, StatementScan, deallocated, effects_of, parameters_of, path};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, text)) = bytes.split_first() else { return };
    let whole = effects_of(text);
    let mut scan = StatementScan::new();
    for piece in text.chunks(usize::from(*cut).max(1)) {
        scan.feed(piece);
    }
    let pieces = scan.finish();
    let mut missed = whole;
    missed.remove(pieces);
    assert!(missed.is_empty() || pieces.has(Effects::UNREADABLE), "{missed} is missed in pieces of {cut}");
    let _ = whole.to_string();
    let read = parameters_of(text);
    let changes = !read.touched.is_empty() || read.resets_all.is_some();
    let may_change = [Effects::PARAMETER, Effects::LOCAL_PARAMETER, Effects::RELEASE, Effects::UNREADABLE];
    assert!(!changes || may_change.iter().any(|effect| whole.has(*effect)), "{read:?} unseen");
    let gives_up = deallocated(text).is_some() || read.forgets_statements;
    assert!(!gives_up || whole.has(Effects::RELEASE) || whole.has(Effects::UNREADABLE));
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = path(text);
    }
});
