//! What a client may have left on its server connection, and what it may not leave there.

use std::rc::Rc;

use super::settings::Settings;
use crate::protocol::{Effects, How, Parameters, Refusal, Touch, changes_schema, parameters_of};

/// Whose rights a session has.
const ROLE: &str = "role";

/// How a temporary table is made that is gone by itself.
const ON_COMMIT_DROP: &[u8] = b"on commit drop";

/// What a statement may leave behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Left {
    effects: Effects,
    parameters: Parameters,
    drops_itself: bool,
    /// Too long to be read closely.
    is_long: bool,
}

impl Left {
    /// Reads a text in which a first scan saw something; nothing if it is harmless after all.
    pub(super) fn of(found: Effects, text: &[u8]) -> Option<Box<Self>> {
        (!found.is_empty()).then(|| Self::read(found, text)).flatten()
    }

    #[cold]
    fn read(found: Effects, text: &[u8]) -> Option<Box<Self>> {
        let mut left = Self { effects: found, ..Self::default() };
        if [Effects::PARAMETER, Effects::LOCAL_PARAMETER, Effects::RELEASE].iter().any(|effect| found.has(*effect)) {
            left.parameters = parameters_of(text);
            left.effects.remove(Effects::PARAMETER);
            left.effects.remove(Effects::LOCAL_PARAMETER);
            if left.parameters.is_opaque {
                left.effects.insert(Effects::OPAQUE_PARAMETER);
            }
            let lasts = |how: &How| !matches!(how, How::Local(_));
            if left.parameters.resets_all.is_some() || left.parameters.touched.iter().any(|touch| lasts(&touch.how)) {
                left.effects.insert(Effects::PARAMETER);
            }
        }
        if left.effects.has(Effects::PREPARE)
            && !left.effects.without(Effects::PREPARE).without(Effects::RELEASE).is_empty()
        {
            // Whenever it is executed it may do the same again, and no text will say so.
            left.effects.insert(Effects::OPAQUE_PARAMETER);
        }
        left.drops_itself = found.has(Effects::TEMPORARY)
            && text.windows(ON_COMMIT_DROP.len()).any(|part| part.eq_ignore_ascii_case(ON_COMMIT_DROP));
        let is_nothing = left.effects.is_empty() && left.parameters.touched.is_empty();
        (!is_nothing).then(|| Box::new(left))
    }

    /// Of a text too long to be read closely.
    pub(super) fn of_long(found: Effects) -> Option<Box<Self>> {
        let mut effects = found.without(Effects::LOCAL_PARAMETER);
        if effects.has(Effects::PARAMETER) || effects.has(Effects::PREPARE) {
            effects.remove(Effects::PARAMETER);
            effects.insert(Effects::OPAQUE_PARAMETER);
        }
        (!effects.is_empty()).then(|| Box::new(Self { effects, is_long: true, ..Self::default() }))
    }
}

/// What a place lets its clients do.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The connection stays from login to logout anyway.
    pub(super) session_mode: bool,
    /// What would keep a connection is refused.
    pub(super) refuses_pins: bool,
    /// Parameters that are set at every hand-over, and again when the client resets them.
    pub(super) asserted: Vec<String>,
    /// On a connection that serves other tenants, too.
    pub(super) shared: Option<SharedRules>,
}

/// What keeps one tenant's mistakes out of another's place.
#[derive(Debug)]
pub(crate) struct SharedRules {
    /// Where its `search_path` may lead.
    pub(super) schemas: Vec<String>,
    /// Parameters that say whose the connection is.
    pub(super) parameters: Vec<String>,
}

impl SharedRules {
    /// Whether pgtenant sets the tenant's role.
    fn gives_role(&self) -> bool {
        self.parameters.iter().any(|name| name == ROLE)
    }

    /// Whether a path leads nowhere but where the tenant may go.
    pub(super) fn allows_path(&self, path: &[String]) -> bool {
        path.iter().all(|schema| self.schemas.contains(schema))
    }
}

/// Whether the server has something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nothing came or went since it was last asked.
    None,
    /// It was asked, and gave no answer.
    Unanswered,
    /// Something came or may have gone since.
    Some,
}

/// One client's leavings.
pub(super) struct State {
    /// Why its connection cannot be given back.
    effects: Effects,
    /// Those that its settings bring, from login to logout.
    standing: Effects,
    /// Those that were counted as reasons for a pin.
    counted: Effects,
    doubt: Doubt,
    /// What came since then.
    noted: Effects,
    /// What the client took away of what it gets with every connection.
    taken_away: Given,
    /// A text that was not read may have taken something away.
    is_unread: bool,
    /// Of the client's next messages nothing may be looked at before those that were sent are answered.
    stops: bool,
    /// Texts may mean something else now than the carried settings say.
    reads_otherwise: bool,
    /// What this transaction may have made of the meaning of texts.
    meaning: Meaning,
    pub(super) settings: Settings,
    /// A SET on its own that was sent, or whose effect the server is being asked about.
    last_set: Option<Box<Repeatable>>,
    /// The last one of which it is known what it comes to.
    known_set: Option<Box<(Repeatable, String)>>,
    rules: Rc<Rules>,
}

/// Parts of what pgtenant gives with every connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Given {
    /// Parameters by their names.
    pub(super) names: Vec<String>,
    /// The role.
    pub(super) role: bool,
}

impl Given {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.role
    }

    /// Whether a parameter, named as the server reports it, is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|given| given.eq_ignore_ascii_case(name))
    }
}

/// A statement that sets one parameter to a plain value: sent again, it comes to the same.
struct Repeatable {
    text: Box<[u8]>,
    name: String,
}

impl Repeatable {
    fn of(text: &[u8], left: &Left) -> Option<Box<Self>> {
        let [Touch { name, how: How::Set(Some(_)) }] = &left.parameters.touched[..] else { return None };
        let starts = text.get(..3).is_some_and(|first| first.eq_ignore_ascii_case(b"set"));
        let is_alone =
            left.effects == Effects::PARAMETER && left.parameters.resets_all.is_none() && !text.contains(&b';');
        (starts && is_alone).then(|| Box::new(Self { text: text.into(), name: name.clone() }))
    }
}

impl State {
    /// A statement with this text goes to the server, where it may change what other texts mean.
    pub(super) fn may_change_schema(&mut self, text: &[u8]) {
        if changes_schema(text) {
            self.meaning = Meaning::Doubtful;
        }
    }

    /// What such a statement of more than one piece says is not looked into.
    pub(super) fn schema_unknown(&mut self) {
        self.meaning = Meaning::Doubtful;
    }

    /// Whether texts may mean something else than they did before this transaction.
    pub(super) fn schema_changes(&self) -> bool {
        self.meaning == Meaning::Doubtful
    }

    /// The transaction is over: whether others must know of it.
    pub(super) fn take_schema_changes(&mut self) -> bool {
        std::mem::take(&mut self.meaning) == Meaning::Doubtful
    }

    /// That of a client that has done nothing yet.
    pub(super) fn new(standing: Effects, rules: Rc<Rules>) -> Self {
        Self {
            effects: standing,
            standing,
            counted: Effects::NONE,
            doubt: Doubt::None,
            noted: Effects::NONE,
            taken_away: Given::default(),
            is_unread: false,
            stops: false,
            reads_otherwise: false,
            meaning: Meaning::Same,
            settings: Settings::default(),
            last_set: None,
            known_set: None,
            rules,
        }
    }

    /// Notes what a statement that goes to the server may leave there.
    pub(super) fn leaves(&mut self, left: Option<&Left>) {
        let Some(left) = left else { return };
        self.doubt = Doubt::Some;
        self.insert(left.effects.without(Effects::RELEASE));
        self.settings.touch(&left.parameters, &self.rules.asserted);
        self.takes_away(&left.parameters);
        self.is_unread |= left.is_long;
        self.reads_otherwise |= left.parameters.resets_all.is_some()
            || left.effects.has(Effects::OPAQUE_PARAMETER)
            || left.parameters.touched.iter().any(|touch| is_read_by(&touch.name));
        let loses_place = self.rules.shared.is_some() && !self.taken_away.is_empty();
        self.stops |= !self.rules.session_mode && (left.parameters.forgets_statements || loses_place);
    }

    /// Notes in their order what takes away and what sets anew something that every connection is given.
    fn takes_away(&mut self, parameters: &Parameters) {
        let Rules { asserted, shared, .. } = &*self.rules;
        let gives_role = shared.as_ref().is_some_and(SharedRules::gives_role);
        self.taken_away.role |=
            gives_role && parameters.touched.iter().any(|touch| touch.name == ROLE && touch.how == How::Reset);
        let names = &mut self.taken_away.names;
        for at in 0..=parameters.touched.len() {
            if parameters.resets_all == Some(at) {
                names.clone_from(asserted);
            }
            let Some(touch) = parameters.touched.get(at).filter(|touch| asserted.contains(&touch.name)) else {
                continue;
            };
            match touch.how {
                How::Set(_) => names.retain(|name| *name != touch.name),
                How::Reset if !names.contains(&touch.name) => names.push(touch.name.clone()),
                How::Reset | How::Local(_) => {}
            }
        }
    }

    /// This is not what every connection is given any more.
    pub(super) fn lost(&mut self, name: &str) {
        self.taken_away.names.push(name.to_owned());
    }

    /// A RESET was done.
    pub(super) fn reset(&mut self) {
        if self.is_unread {
            self.taken_away.names.clone_from(&self.rules.asserted);
        }
    }

    /// What every connection is given and the client took away from this one.
    pub(super) fn taken_away(&self) -> &Given {
        &self.taken_away
    }

    /// It is given again.
    pub(super) fn take_taken_away(&mut self) -> Given {
        std::mem::take(&mut self.taken_away)
    }

    /// Whether what was sent must be answered before the next message is looked at; once.
    pub(super) fn take_stops(&mut self) -> bool {
        std::mem::take(&mut self.stops)
    }

    /// Whether texts may mean something else now than the carried settings say.
    pub(super) fn reads_otherwise(&self) -> bool {
        self.reads_otherwise
    }

    /// A transaction is over.
    pub(super) fn transaction_over(&mut self) {
        self.reads_otherwise &= !self.settings.is_settled();
    }

    /// The server was asked, and gave no answer.
    pub(super) fn unanswered(&mut self) {
        self.settings.unanswered();
        if self.doubt == Doubt::None {
            self.doubt = Doubt::Unanswered;
        }
    }

    /// Something of the client's was answered: what got no answer before may be asked again.
    pub(super) fn answered(&mut self) {
        if self.doubt == Doubt::Unanswered {
            self.doubt = Doubt::Some;
        }
    }

    /// A query of which only this was found: whether it is a SET that changes nothing, the client having sent it before.
    pub(super) fn repeats(&self, found: Effects, text: &[u8]) -> bool {
        found == Effects::PARAMETER
            && self.settings.is_settled()
            && self.known_set.as_deref().is_some_and(|(set, value)| {
                *set.text == *text && self.settings.value(&set.name) == Some(value.as_str())
            })
    }

    /// A query goes to the server with nothing before it, outside a transaction.
    pub(super) fn sent_alone(&mut self, text: &[u8], left: Option<&Left>) {
        self.last_set = left.and_then(|left| Repeatable::of(text, left));
    }

    /// Something else is sent, or a statement failed: what comes of the last SET is not told by what is there in the end.
    pub(super) fn forget_last_set(&mut self) {
        self.last_set = None;
    }

    /// What the client carries is known now.
    pub(super) fn settled(&mut self) {
        if let Some(set) = self.last_set.take()
            && let Some(value) = self.settings.value(&set.name)
        {
            let value = value.to_owned();
            self.known_set = Some(Box::new((*set, value)));
        }
    }

    /// Whether a query may not go to the server at all. Other than in a batch, the role that resets take away is given again
    /// before anything else is done.
    pub(super) fn refuses_query(&self, left: Option<&Left>) -> Option<Refusal> {
        self.refuses_but(left, left?.parameters.only_resets)
    }

    /// Whether a statement may not go to the server at all.
    pub(super) fn refuses(&self, left: Option<&Left>) -> Option<Refusal> {
        self.refuses_but(left, false)
    }

    fn refuses_but(&self, left: Option<&Left>, may_reset_role: bool) -> Option<Refusal> {
        let left = left?;
        if let Some(shared) = &self.rules.shared {
            for touch in &left.parameters.touched {
                if may_reset_role && touch.name == ROLE && touch.how == How::Reset {
                    continue;
                }
                if shared.parameters.contains(&touch.name) || touch.name.starts_with("pgtenant.") {
                    return Some(Refusal::TenantParameter);
                }
                if let (true, How::Set(Some(path)) | How::Local(Some(path))) = (touch.name == "search_path", &touch.how)
                    && !shared.allows_path(path)
                {
                    return Some(Refusal::OtherSchema);
                }
            }
        }
        if !self.refuses_pins() {
            return None;
        }
        let mut pins = left.effects.without(Effects::RELEASE).without(Effects::PARAMETER);
        if left.drops_itself {
            pins.remove(Effects::TEMPORARY);
        }
        (!pins.is_empty()).then_some(Refusal::Pin(pins))
    }

    /// Whether what would keep the connection is refused.
    pub(super) fn refuses_pins(&self) -> bool {
        self.rules.refuses_pins && !self.rules.session_mode
    }

    /// Whether this, which the protocol shows, may not be.
    pub(super) fn refuses_effect(&self, effect: Effects) -> Option<Refusal> {
        self.refuses_pins().then_some(Refusal::Pin(effect))
    }

    /// Notes a state that the protocol shows.
    pub(super) fn insert(&mut self, effect: Effects) {
        self.effects.insert(effect);
        self.noted.insert(effect);
    }

    /// It is gone.
    pub(super) fn remove(&mut self, effect: Effects) {
        self.effects.remove(effect);
    }

    /// A parameter changed, as the server reports.
    pub(super) fn reported(&mut self, name: &str, value: &str) {
        if self.rules.session_mode {
            return;
        }
        self.insert(Effects::PARAMETER);
        self.settings.reported(name);
        self.doubt = Doubt::Some;
        if is_unreadable(name, value) {
            self.insert(Effects::UNREADABLE);
        }
    }

    /// DISCARD ALL was done. `is_last`: nothing was sent after it.
    pub(super) fn discarded(&mut self, is_last: bool) {
        self.settings.discarded();
        self.taken_away = Given { names: self.rules.asserted.clone(), role: true };
        self.is_unread = false;
        if is_last {
            self.settings.untouch();
            let standing = self.standing;
            self.effects.remove(Effects::DISCARDED);
            self.effects.insert(standing);
        }
    }

    /// What was sent has reached no server.
    pub(super) fn unsent(&mut self) {
        self.effects = self.standing;
        self.settings.untouch();
        self.taken_away = Given::default();
        self.stops = false;
    }

    /// Nothing keeps the connection, and nothing has to be asked first.
    pub(super) fn is_clean(&self) -> bool {
        self.effects.is_empty() && self.settings.is_settled()
    }

    pub(super) fn effects(&self) -> Effects {
        self.effects
    }

    /// Whether asking the server may show that nothing keeps the connection.
    pub(super) fn is_worth_asking(&self) -> bool {
        self.doubt == Doubt::Some && Effects::ASKABLE.has_all(self.effects)
    }

    /// The server is asked.
    pub(super) fn asks(&mut self) {
        self.doubt = Doubt::None;
        self.noted = Effects::NONE;
        self.settings.ask();
    }

    /// These were not there when the server answered.
    pub(super) fn gone(&mut self, effects: Effects) {
        self.effects.remove(effects.without(self.noted));
    }

    /// The reasons for a pin that were not counted yet.
    pub(super) fn take_uncounted(&mut self) -> Effects {
        let new = self.effects.without(self.counted);
        self.counted.insert(new);
        new
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// Whether texts that were parsed before still mean the same.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    #[default]
    Same,
    /// A statement may have changed the schema.
    Doubtful,
}

/// Whether what a text means, once it is parsed, depends on this parameter: its constants above all.
pub(super) fn is_read_by(name: &str) -> bool {
    const READING: [&str; 12] = [
        "search_path",
        "timezone",
        "datestyle",
        "intervalstyle",
        "client_encoding",
        "lc_monetary",
        "xmloption",
        "transform_null_equals",
        "array_nulls",
        "bytea_output",
        "extra_float_digits",
        "timezone_abbreviations",
    ];
    READING.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether texts cannot be scanned reliably where these parameters hold.
pub(super) fn are_unreadable<'a>(parameters: impl IntoIterator<Item = &'a (String, String)>) -> bool {
    parameters.into_iter().any(|(name, value)| is_unreadable(name, value))
}

/// Whether texts can no longer be scanned reliably when a parameter has this value: old string syntax, or an encoding in which
/// a quote or backslash may be the second byte of a character.
fn is_unreadable(name: &str, value: &str) -> bool {
    const UNSAFE: [&str; 12] =
        ["sjis", "big5", "gbk", "gb18030", "uhc", "johab", "shift", "mskanji", "win93", "win94", "win95", "windows9"];
    match name {
        "standard_conforming_strings" => !matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1"),
        "client_encoding" => {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            let plain = plain.to_ascii_lowercase();
            UNSAFE.iter().any(|name| plain.contains(name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::effects_of;

    fn left(text: &str) -> Option<Box<Left>> {
        Left::of(effects_of(text.as_bytes()), text.as_bytes())
    }

    fn state(refuses_pins: bool) -> State {
        let shared = SharedRules {
            schemas: vec!["acme".to_owned(), "public".to_owned()],
            parameters: vec!["app.tenant".to_owned()],
        };
        let asserted = vec!["search_path".to_owned()];
        let rules = Rules { session_mode: false, refuses_pins, asserted, shared: Some(shared) };
        State::new(Effects::NONE, Rc::new(rules))
    }

    #[test]
    fn what_ends_with_the_transaction_leaves_nothing() {
        for text in ["SELECT set_config('a.b', 'c', true)", "SELECT 1", "SET LOCAL a.b = 1"] {
            let mut state = state(true);
            assert_eq!(state.refuses(left(text).as_deref()), None, "{text}");
            state.leaves(left(text).as_deref());
            assert!(state.is_clean(), "{text}");
        }
    }

    #[test]
    fn another_tenants_schema_and_the_tenants_own_parameters_are_refused_on_shared_connections() {
        let refused = |text: &str| state(false).refuses(left(text).as_deref());
        for text in ["SET search_path = globex", "SET LOCAL search_path TO acme, globex", "SET SCHEMA 'globex'"] {
            assert_eq!(refused(text), Some(Refusal::OtherSchema), "{text}");
        }
        assert_eq!(refused("SELECT set_config('search_path', 'acme, \"globex\"', true)"), Some(Refusal::OtherSchema));
        for text in ["SET app.tenant = 'x'", "SELECT set_config('App.Tenant', $1, true)", "RESET pgtenant.tenant_id"] {
            assert_eq!(refused(text), Some(Refusal::TenantParameter), "{text}");
        }
        for text in ["SET search_path = acme, public", "SELECT set_config('search_path', 'public', false)"] {
            assert_eq!(refused(text), None, "{text}");
        }
    }

    #[test]
    fn the_role_that_pgtenant_sets_may_be_reset_by_a_query_of_resets_and_is_given_again() {
        let shared =
            SharedRules { schemas: Vec::new(), parameters: vec![ROLE.to_owned(), "session_authorization".to_owned()] };
        let rules = Rules { shared: Some(shared), ..Rules::default() };
        let mut state = State::new(Effects::NONE, Rc::new(rules));
        let resets = left("SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *");
        assert_eq!(state.refuses_query(resets.as_deref()), None);
        assert_eq!(state.refuses(resets.as_deref()), Some(Refusal::TenantParameter), "in a batch more would follow");
        for text in [
            "RESET ROLE; SELECT 1",
            "SET ROLE NONE",
            "SET SESSION AUTHORIZATION bob",
            "SELECT set_config('role', 'bob', true)",
        ] {
            assert_eq!(state.refuses_query(left(text).as_deref()), Some(Refusal::TenantParameter), "{text}");
        }
        state.leaves(resets.as_deref());
        assert!(state.take_stops() && state.taken_away().role);
    }

    #[test]
    fn where_pins_are_refused_what_would_pin_is_named() {
        let refused = |text: &str| state(true).refuses(left(text).as_deref());
        assert_eq!(refused("LISTEN a"), Some(Refusal::Pin(Effects::LISTEN)));
        assert_eq!(refused("CREATE TEMP TABLE t ()"), Some(Refusal::Pin(Effects::TEMPORARY)));
        assert_eq!(refused("CREATE TEMP TABLE t () ON COMMIT DROP"), None);
        assert_eq!(refused("SET work_mem = '4MB'"), None);
        assert_eq!(refused("UNLISTEN *"), None);
    }

    #[test]
    fn a_set_that_the_client_has_sent_before_changes_nothing_until_something_else_does() {
        let mut state = state(false);
        let set = "SET search_path = acme";
        let send = |state: &mut State, text: &str, value: &str| {
            state.leaves(left(text).as_deref());
            state.sent_alone(text.as_bytes(), left(text).as_deref());
            state.asks();
            state.settings.settle(|_| Some(value.to_owned()));
            state.settled();
        };
        let repeats = |state: &State, text: &str| state.repeats(effects_of(text.as_bytes()), text.as_bytes());
        assert!(!repeats(&state, set));
        send(&mut state, set, "acme");
        assert!(repeats(&state, set) && !repeats(&state, "SET search_path = public"));
        send(&mut state, "RESET search_path", "public");
        assert!(!repeats(&state, set), "it is something else now");
        for other in
            ["SET search_path = acme; SELECT 1", "SELECT set_config('search_path', 'acme', false)", "SET a.b = 1, (2)"]
        {
            send(&mut state, other, "acme");
            assert!(!repeats(&state, other), "{other}");
        }
    }

    #[test]
    fn resetting_what_every_connection_is_given_is_noticed() {
        for (text, is_taken) in [
            ("SET search_path TO DEFAULT", true),
            ("RESET search_path", true),
            ("RESET ALL", true),
            ("SET search_path = public; DISCARD ALL", true),
            ("RESET work_mem", false),
            ("RESET ALL; SET search_path = public", false),
        ] {
            let mut state = state(false);
            state.leaves(left(text).as_deref());
            assert_eq!(state.take_stops(), is_taken, "{text}");
            assert_eq!(!state.take_taken_away().is_empty(), is_taken, "{text}");
            assert!(state.taken_away().is_empty());
        }
    }
}
