//! What makes a shared backend one tenant's: the settings asserted at a hand-over, as bytes ready to be sent.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::state::Given;
use crate::backend::{Asserted, Context};
use crate::protocol::{HEADER_BYTES, header};
use crate::tenant::{quote_ident, quote_literal};

/// Takes a shared connection from one tenant before another gets it. What is seen of a session's state pins it; the rest here is
/// for what is not seen: made inside functions, or by a plain INSERT (`lastval`). Statements that pgtenant itself keeps there go too, as they
/// must: pg_prepared_statements shows their texts. One statement, since the server takes twice as long for its parts one by one.
const FORGET: &str = "DISCARD ALL";
/// The same as a Query message: it is sent at each hand-over between two tenants.
const FORGET_MESSAGE: &[u8] = b"Q\0\0\0\x10DISCARD ALL\0";

/// The same where all clients are one tenant's.
const NEUTRAL: &str = "RESET ALL;RESET ROLE";
/// As above.
const NEUTRAL_MESSAGE: &[u8] = b"Q\0\0\0\x19RESET ALL;RESET ROLE\0";

/// Shorter time-outs can break what is sent at a hand-over, on a busy machine.
const TIMEOUT_MS_MIN: u64 = 1000;

/// What has to be sent in front of a session's messages.
pub(crate) struct Needed<'a> {
    /// The message that takes away what another session left, where there may be something.
    neutral: &'static [u8],
    /// The message that sets.
    set: Cow<'a, [u8]>,
    /// How many ReadyForQuery they bring.
    pub(crate) ready_count: u32,
    /// They take away the connection's prepared statements.
    pub(crate) forgets: bool,
}

impl Needed<'_> {
    /// Puts the messages behind what is there.
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.extend_from_slice(self.neutral);
        out.extend_from_slice(&self.set);
    }
}

/// A context, and the messages that assert it.
pub(crate) struct Assertion {
    /// All that a connection of this session has.
    pub(crate) context: Rc<Context>,
    /// What pgtenant itself gives it.
    base: Rc<Context>,
    /// From here on the context's settings are what the client carries.
    carried_from: usize,
    /// Sets every part of the context; made when it is first needed, which for many sessions it never is.
    set: OnceCell<BytesMut>,
    shared: bool,
}

impl Assertion {
    /// `shared`: the connection serves other tenants, too.
    pub(crate) fn new(context: Context, shared: bool) -> Self {
        let context = Rc::new(context);
        let carried_from = context.settings.len();
        Self { base: Rc::clone(&context), context, carried_from, set: OnceCell::new(), shared }
    }

    /// The same with what the client carries, which wins over what pgtenant gives.
    pub(crate) fn carrying(&self, carried: &[(String, String)]) -> Self {
        let is_carried = |name: &String| carried.iter().any(|(carried, _)| carried == name);
        let mut settings = self.base.settings.clone();
        settings.retain(|(name, _)| !is_carried(name));
        let carried_from = settings.len();
        settings.extend_from_slice(carried);
        Self {
            context: Rc::new(Context { settings, ..Context::clone(&self.base) }),
            base: Rc::clone(&self.base),
            carried_from,
            set: OnceCell::new(),
            shared: self.shared,
        }
    }

    fn set(&self) -> &BytesMut {
        self.set.get_or_init(|| {
            let (given, carried) = self.context.settings.split_at(self.carried_from);
            let mut all = statements(given, self.context.role.as_deref());
            if !carried.is_empty() {
                all.push(set_config(carried));
            }
            message(&all)
        })
    }

    /// Takes away whatever another tenant's session left. A message of its own in front of the one that sets: should one of the two be
    /// cancelled by somebody's late signal, the other still keeps this client out of the other tenant's place.
    const fn neutral(&self) -> &'static [u8] {
        if self.shared { FORGET_MESSAGE } else { NEUTRAL_MESSAGE }
    }

    /// What has to be sent before this session's next message on a connection with this state, last used by another
    /// session or not.
    pub(crate) fn needed(&self, asserted: &Asserted, same_session: bool) -> Option<Needed<'_>> {
        let both = || {
            let set = Cow::Borrowed(&self.set()[..]);
            let ready_count = if set.is_empty() { 1 } else { 2 };
            Some(Needed { neutral: self.neutral(), set, ready_count, forgets: self.shared })
        };
        match asserted {
            Asserted::Unknown => both(),
            Asserted::Fresh => needed(Cow::Borrowed(self.set())),
            Asserted::Is(old) => {
                let same = Rc::ptr_eq(old, &self.context) || **old == *self.context;
                if same && (same_session || !self.shared) {
                    return None;
                }
                // Another client of the same tenant: what a function may have left is set again. Another tenant, or other
                // settings: first everything goes.
                if same || self.covers(old) { needed(Cow::Borrowed(self.set())) } else { both() }
            }
        }
    }

    /// The messages as text, for a connection on which nothing else is under way.
    pub(crate) fn statements(needed: &Needed<'_>) -> Vec<String> {
        let mut bytes = BytesMut::new();
        needed.put(&mut bytes);
        let mut rest = &bytes[..];
        let mut statements = Vec::new();
        while let Ok(Some(head)) = header(rest) {
            let body = &rest[HEADER_BYTES..head.frame_bytes - 1];
            statements.push(String::from_utf8_lossy(body).into_owned());
            rest = &rest[head.frame_bytes..];
        }
        statements
    }

    /// Whether setting this context leaves nothing of an old one, which must be of the same tenant.
    fn covers(&self, old: &Context) -> bool {
        let names = |context: &Context| context.settings.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        !(self.context.settings.is_empty() && self.context.role.is_none())
            && old.tenant == self.context.tenant
            && old.role == self.context.role
            && names(old) == names(&self.context)
    }

    /// The message that gives again what a client took away of what pgtenant gives, but not what the client has set itself
    /// since; that too while it is not known.
    pub(super) fn again(&self, given: &Given, is_known: bool) -> Option<Needed<'static>> {
        let mut settings = self.base.settings.clone();
        settings.retain(|set| given.has(&set.0) && (!is_known || self.context.settings.contains(set)));
        let set = message(&statements(&settings, self.base.role.as_deref().filter(|_| given.role)));
        needed(Cow::Owned(set.into()))
    }

    /// The statements that make a connection in this state nobody's, one after the other, if a short time-out that was set
    /// there could break them: then nothing else may be on its way before they have succeeded.
    pub(super) fn calming(&self, asserted: &Asserted, same_session: bool) -> Option<[String; 2]> {
        let Asserted::Is(old) = asserted else { return None };
        let is_short = |(name, value): &(String, String)| {
            ["statement_timeout", "transaction_timeout"].iter().any(|timeout| name.eq_ignore_ascii_case(timeout))
                && is_short(value)
        };
        let stays = **old == *self.context && (same_session || !self.shared);
        if stays || !old.settings.iter().any(is_short) {
            return None;
        }
        let neutral = if self.shared { FORGET } else { NEUTRAL };
        Some(["SET statement_timeout = 0".to_owned(), neutral.to_owned()])
    }
}

/// Whether a time-out is shorter than a second, as the server or a client writes it: without a unit it is milliseconds.
fn is_short(timeout: &str) -> bool {
    let digits = timeout.trim().bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = timeout.trim().split_at(digits);
    let number = number.parse().unwrap_or(u64::MAX);
    match unit.trim() {
        "" | "ms" => (1..TIMEOUT_MS_MIN).contains(&number),
        unit => unit.starts_with(['u', '.', 'e']),
    }
}

fn needed(set: Cow<'_, [u8]>) -> Option<Needed<'_>> {
    (!set.is_empty()).then_some(Needed { neutral: &[], set, ready_count: 1, forgets: false })
}

fn message(statements: &[String]) -> BytesMut {
    if statements.is_empty() { BytesMut::new() } else { query(&statements.join(";")) }
}

/// Time-outs come last: a short one would hit what is set after it.
fn statements(settings: &[(String, String)], role: Option<&str>) -> Vec<String> {
    let setting =
        |(name, value): &(String, String)| format!("SET {} = {}", setting_name(name), setting_value(name, value));
    let role = role.map(|role| format!("SET ROLE {}", quote_ident(role)));
    let is_timeout = |(name, _): &&(String, String)| name.to_ascii_lowercase().ends_with("_timeout");
    let (last, first): (Vec<_>, Vec<_>) = settings.iter().partition(is_timeout);
    first.into_iter().map(setting).chain(role).chain(last.into_iter().map(setting)).collect()
}

/// Sets what a client set, as the server showed it: any value is one literal here, also that of a parameter which is a list.
fn set_config(carried: &[(String, String)]) -> String {
    let call = |(name, value): &(String, String)| {
        format!("pg_catalog.set_config({}, {}, false)", quote_literal(name), quote_literal(value))
    };
    format!("SELECT {}", carried.iter().map(call).collect::<Vec<_>>().join(", "))
}

/// A parameter's name for SET: dotted names keep their parts.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote_ident).collect::<Vec<_>>().join(".")
}

/// A parameter's value for SET. `search_path` is a list that is quoted already.
fn setting_value(name: &str, value: &str) -> String {
    if name == "search_path" { value.to_owned() } else { quote_literal(value) }
}

/// A Query message.
pub(super) fn query(text: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(text.len() + 6);
    out.put_u8(b'Q');
    out.put_u32(u32::try_from(text.len() + 5).unwrap_or(u32::MAX));
    out.extend_from_slice(text.as_bytes());
    out.put_u8(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assertion(timeout: &str) -> Assertion {
        let settings = vec![("statement_timeout".to_owned(), timeout.to_owned())];
        Assertion::new(Context { tenant: None, settings, role: None }, true)
    }

    #[test]
    fn what_is_sent_at_a_hand_over_are_query_messages() {
        for (text, message) in [(FORGET, FORGET_MESSAGE), (NEUTRAL, NEUTRAL_MESSAGE)] {
            assert_eq!(query(text), message);
        }
    }

    #[test]
    fn a_connection_with_a_short_time_out_is_calmed_before_others_use_it() {
        let next = assertion("5s");
        for (timeout, is_short) in
            [("1", true), ("1ms", true), ("999 ms", true), ("0", false), ("1s", false), ("1000", false)]
        {
            let old = assertion(timeout);
            let asserted = Asserted::Is(Rc::clone(&old.context));
            assert_eq!(next.calming(&asserted, false).is_some(), is_short, "{timeout}");
            assert!(old.calming(&asserted, true).is_none(), "it goes on with its own");
            assert_eq!(old.calming(&asserted, false).is_some(), is_short, "{timeout}");
        }
    }
}
