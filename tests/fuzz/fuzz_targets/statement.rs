//! The scan of statement text: whatever the pieces, nothing that the whole shows may be missed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::protocol::{Effects, StatementScan, effects_of};

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
});
