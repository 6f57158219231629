//! Texts that were scanned of late and leave nothing behind: most drivers parse the same ones anew each time.

use std::hash::Hasher;

use rapidhash::fast::RapidHasher;

use crate::protocol::{Effects, effects_of};

/// Places for texts; a text that comes takes that of another.
const PLACES: usize = 256;
/// Longest text that is remembered.
const TEXT_BYTES_MAX: usize = 1024;

/// A thread's memory.
#[derive(Default)]
pub(crate) struct Harmless(
    /// None before there is a first.
    Vec<Vec<u8>>,
);

impl Harmless {
    /// What a text might leave behind: scanned, unless the same is remembered.
    pub(super) fn effects_of(&mut self, text: &[u8]) -> Effects {
        if text.len() > TEXT_BYTES_MAX {
            return effects_of(text);
        }
        if self.0.is_empty() {
            self.0.resize_with(PLACES, Vec::new);
        }
        let mut hasher = RapidHasher::default();
        hasher.write(text);
        let place = &mut self.0[hasher.finish() as usize % PLACES];
        if *place == text {
            return Effects::NONE;
        }
        let found = effects_of(text);
        if found.is_empty() && !may_hold_secret(text) {
            place.clear();
            place.extend_from_slice(text);
        }
        found
    }
}

/// Whether a text may set a password, which is not to stay in memory.
fn may_hold_secret(text: &[u8]) -> bool {
    text.windows(b"password".len()).any(|word| word.eq_ignore_ascii_case(b"password"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_remembered_is_one_text_a_place_and_none_that_leaves_something() {
        let mut harmless = Harmless::default();
        for round in 0..2 {
            for number in 0..2 * PLACES {
                let text = format!("SELECT {number}");
                assert_eq!(harmless.effects_of(text.as_bytes()), Effects::NONE, "round {round}");
                assert_eq!(harmless.effects_of(b"LISTEN a"), Effects::LISTEN);
            }
        }
        harmless.effects_of(&[b' '; TEXT_BYTES_MAX + 1]);
        harmless.effects_of(b"ALTER ROLE a Password 'b'");
        let lengths: Vec<_> = harmless.0.iter().map(Vec::len).collect();
        assert_eq!(lengths.len(), PLACES);
        assert!(lengths.iter().all(|length| *length <= "SELECT 511".len()), "{lengths:?}");
    }

    proptest! {
        #[test]
        fn a_text_that_is_remembered_leaves_what_it_leaves_when_scanned(
            texts in proptest::collection::vec("(SELECT|SET|LISTEN|'|\\$\\$| |a|;){0,6}", 1..40)
        ) {
            let mut harmless = Harmless::default();
            for text in texts.iter().chain(&texts) {
                prop_assert_eq!(harmless.effects_of(text.as_bytes()), effects_of(text.as_bytes()), "{}", text);
            }
        }
    }
}
