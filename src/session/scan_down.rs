//! Reading what the server answers: whose turn is over, which settings changed, what must not reach the client.

use bytes::Bytes;

use super::relay::{End, Link, Relay};
use crate::protocol::{Effects, HEADER_BYTES, WHOLE_BYTES_MAX, cstring, header};

impl Relay {
    /// Scans what was read from the server, and lets go on what may.
    pub(super) fn scan_down(&mut self) -> Result<(), End> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        loop {
            let hidden = link.swallow > 0;
            if hidden && self.down.window.has_ready() {
                // What the client gets must be gone before anything is left out after it.
                return Ok(());
            }
            let unscanned = self.down.window.unscanned();
            let mut count = self.down.rest.min(unscanned.len());
            if count > 0 {
                self.down.rest -= count;
            } else {
                let Ok(head) = header(unscanned) else {
                    tracing::error!(server_pid = link.server.process_id, "server sent an impossible message length");
                    self.down.window.drop_unscanned();
                    self.down.ended = true;
                    return Ok(());
                };
                let Some(head) = head else {
                    return Ok(());
                };
                count = unscanned.len().min(head.frame_bytes);
                if !matches!(head.kind, b'D' | b'd') {
                    if count < head.frame_bytes && head.frame_bytes <= WHOLE_BYTES_MAX {
                        return Ok(());
                    }
                    let body = &mut unscanned[HEADER_BYTES..count];
                    if hidden {
                        hidden_message(link, head.kind, body)?;
                    } else {
                        self.pending.answered(head.kind);
                        let effects = server_message(link, head.kind, body, self.process_id);
                        if !self.place.session_mode {
                            self.effects.insert(effects);
                        }
                        if self.pending.is_uncertain() {
                            self.effects.insert(Effects::FAILED_COPY);
                        }
                        self.down.fatal_seen = head.kind == b'E' && is_fatal(&unscanned[HEADER_BYTES..count]);
                        link.clean = link.clean || (head.kind == b'Z' && self.pending.is_empty());
                    }
                }
                self.down.rest = head.frame_bytes - count;
            }
            if hidden {
                self.down.window.skip(count);
                if link.swallow == 0 {
                    link.server.asserted =
                        crate::backend::Asserted::Is(std::rc::Rc::clone(&self.place.assertion.context));
                    link.server.affinity = self.place.want.affinity;
                    link.clean = self.pending.is_empty();
                }
            } else {
                self.down.window.pass(count);
            }
        }
    }
}

/// A message that answers something of ours.
fn hidden_message(link: &mut Link, kind: u8, body: &[u8]) -> Result<(), End> {
    match kind {
        b'Z' => {
            link.swallow -= 1;
            link.status = body.first().copied().unwrap_or(b'E');
        }
        b'E' => return Err(End::NotAsserted(Bytes::copy_from_slice(body))),
        b'S' => parameter_changed(link, body),
        _ => {}
    }
    Ok(())
}

/// A message for the client; what it tells of the server's state.
fn server_message(link: &mut Link, kind: u8, body: &mut [u8], process_id: i32) -> Effects {
    match kind {
        b'Z' => link.status = body.first().copied().unwrap_or(b'E'),
        b'S' => {
            parameter_changed(link, body);
            return Effects::REPORTED;
        }
        b'C' if body.starts_with(b"RESET\0") || body.starts_with(b"DISCARD ALL\0") => link.reassert = true,
        // The client knows itself by another number than the server does.
        b'A' => {
            if let Some(pid) = body.first_chunk_mut::<4>()
                && i32::from_be_bytes(*pid) == link.server.process_id
            {
                *pid = process_id.to_be_bytes();
            }
        }
        b'W' => return Effects::REPLICATION,
        _ => {}
    }
    Effects::NONE
}

fn parameter_changed(link: &mut Link, body: &[u8]) {
    let Some((name, rest)) = cstring(body) else { return };
    let Some((value, _)) = cstring(rest) else { return };
    let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { return };
    link.server.set_parameter(name.to_owned(), value.to_owned());
}

/// Whether an ErrorResponse ends the session: field `V`, never translated, says FATAL or PANIC.
fn is_fatal(body: &[u8]) -> bool {
    let mut rest = body;
    while let Some((&code, after)) = rest.split_first() {
        let Some((value, next)) = cstring(after) else { return false };
        if code == b'V' {
            return matches!(value, b"FATAL" | b"PANIC");
        }
        rest = next;
    }
    false
}
