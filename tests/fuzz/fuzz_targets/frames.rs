//! Messages of both directions in any pieces, and the account of which answers are still owed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::protocol::{Answer, HEADER_BYTES, Owed, Pending, check_frontend, cstring, header};

/// The last of these answers everything that is owed.
const LAST: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    walk(bytes);
    account(bytes);
});

/// Frame after frame, as the relay goes.
fn walk(mut bytes: &[u8]) {
    while let Ok(Some(head)) = header(bytes) {
        assert!(head.frame_bytes >= HEADER_BYTES);
        let _ = check_frontend(head);
        let there = bytes.len().min(head.frame_bytes);
        if let Some((name, rest)) = cstring(&bytes[HEADER_BYTES..there]) {
            assert_eq!(name.len() + 1 + rest.len(), there - HEADER_BYTES);
        }
        bytes = &bytes[there..];
    }
}

/// A client that sends anything, a server that answers anything: what is owed never outgrows what was sent, and a server that
/// answers it all leaves nothing.
fn account(bytes: &[u8]) {
    let mut pending = Pending::default();
    let mut sent = 0;
    for byte in bytes {
        match byte % 16 {
            0 => send(&mut pending, &mut sent, Owed::Query),
            1 => send(&mut pending, &mut sent, Owed::FunctionCall),
            2 | 3 => send(&mut pending, &mut sent, Owed::Sync),
            4 => send(&mut pending, &mut sent, Owed::Parse(answer(*byte), u32::from(*byte >> 6))),
            5 => send(&mut pending, &mut sent, Owed::ParseUnnamed),
            6 => send(&mut pending, &mut sent, Owed::Bind),
            7 => send(&mut pending, &mut sent, Owed::Describe),
            8 => send(&mut pending, &mut sent, Owed::Execute),
            9 => send(&mut pending, &mut sent, Owed::Close(answer(*byte), u32::from(*byte >> 6))),
            10 => send(&mut pending, &mut sent, Owed::CopyEnd),
            11 => pending.own_answered(),
            _ => {
                let mut lost = 0;
                let before = pending.len();
                pending.answered(b"123TnCIsGEZ"[usize::from(*byte >> 4) % 11], |_| lost += 1);
                assert!(lost <= before);
            }
        }
        assert!(pending.len() <= sent);
        assert_eq!(pending.is_empty(), pending.len() == 0);
    }
    // The client ends whatever it began.
    pending.sent(Owed::CopyEnd);
    pending.sent(Owed::Sync);
    for _ in 0..LAST.min(2 * sent + 4) {
        pending.own_answered();
        pending.answered(b'E', |_| {});
        pending.answered(b'Z', |_| {});
    }
    assert!(pending.is_empty(), "{pending:?}");
    pending.clear();
    assert!(pending.is_empty() && !pending.is_skipping());
}

fn send(pending: &mut Pending, sent: &mut usize, message: Owed) {
    pending.sent(message);
    *sent += 1;
}

fn answer(byte: u8) -> Answer {
    match byte >> 4 & 3 {
        0 => Answer::Own,
        1 => Answer::Hidden,
        _ => Answer::Server,
    }
}
