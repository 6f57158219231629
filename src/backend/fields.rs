//! What stands in the messages of a server that pgtenant reads itself.

use bytes::{Buf, Bytes};

use crate::protocol::{cstring, error_field};

/// Most parameters that a server may report.
const PARAMETERS_MAX: usize = 256;

/// The code of an ErrorResponse; none when it has none of five letters and digits, and is therefore nothing to pass on.
pub(super) fn sqlstate_of(raw: &[u8]) -> Option<String> {
    let code = error_field(raw, b'C')?;
    let legal = code.len() == 5 && code.iter().all(u8::is_ascii_alphanumeric) && raw.last() == Some(&0);
    legal.then(|| code.iter().copied().map(char::from).collect())
}

/// Name and value of a ParameterStatus.
pub(super) fn parameter_status(body: &[u8]) -> Option<(String, String)> {
    let (name, rest) = cstring(body)?;
    let (value, rest) = cstring(rest)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    rest.is_empty().then(|| (text(name), text(value)))
}

/// Notes a parameter under its name; false when there are too many already.
pub(super) fn set_parameter(parameters: &mut Vec<(String, String)>, name: String, value: String) -> bool {
    if let Some((_, old)) = parameters.iter_mut().find(|(known, _)| *known == name) {
        *old = value;
        return true;
    }
    let room = parameters.len() < PARAMETERS_MAX;
    if room {
        parameters.push((name, value));
    }
    room
}

/// Takes a big-endian number off the front.
pub(super) fn take_i32(body: &mut Bytes) -> Option<i32> {
    body.try_get_i32().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_have_fields_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(code) = sqlstate_of(&bytes) {
                prop_assert_eq!(code.len(), 5);
            }
            let _ = parameter_status(&bytes);
        }
    }

    #[test]
    fn fields_are_found_by_their_letter() {
        let raw = b"E\0\0\0\0SFATAL\0C57P03\0Mwait\0\0";
        assert_eq!(error_field(raw, b'M'), Some(&b"wait"[..]));
        assert_eq!((error_field(raw, b'H'), sqlstate_of(raw).as_deref()), (None, Some("57P03")));
    }

    #[test]
    fn parameters_are_kept_once_each_and_bounded_in_number() {
        let mut parameters = Vec::new();
        for n in 0..2 * PARAMETERS_MAX {
            let kept = set_parameter(&mut parameters, format!("p{n}"), "v".to_owned());
            assert_eq!(kept, n < PARAMETERS_MAX);
        }
        assert!(set_parameter(&mut parameters, "p0".to_owned(), "w".to_owned()));
        assert_eq!((parameters.len(), parameters[0].1.as_str()), (PARAMETERS_MAX, "w"));
    }
}
