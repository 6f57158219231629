//! Which keys there are, asked of the types themselves, and which known key resembles an unknown one.

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

use super::error::UnknownKey;
use super::file::ReloadConfig;
use crate::frontend::{IdentifyConfig, ListenConfig};
use crate::{admin, console, limits, pool, registry, session, telemetry};

/// A section and its keys, in the order in which its type declares them.
pub(super) type Section = (&'static str, &'static [&'static str]);

/// Every section with its keys.
pub(super) fn sections() -> [Section; 10] {
    [
        ("listen", fields::<ListenConfig>()),
        ("registry", fields::<registry::Config>()),
        ("identify", fields::<IdentifyConfig>()),
        ("pool", fields::<pool::Config>()),
        ("limits", fields::<limits::Config>()),
        ("timeouts", fields::<session::Config>()),
        ("console", fields::<console::Config>()),
        ("http", fields::<admin::Config>()),
        ("log", fields::<telemetry::Config>()),
        ("reload", fields::<ReloadConfig>()),
    ]
}

/// The keys of a file that mean nothing.
pub(super) fn unknown_in(table: &Table) -> Vec<UnknownKey> {
    let sections = sections();
    let mut unknown = Vec::new();
    for (name, value) in table {
        let Some((_, keys)) = sections.iter().find(|(section, _)| section == name) else {
            let nearest = nearest(name, sections.iter().map(|(section, _)| (*section).to_owned()));
            unknown.push(UnknownKey { key: name.clone(), nearest });
            continue;
        };
        for key in value.as_table().into_iter().flat_map(Table::keys).filter(|key| !keys.contains(&key.as_str())) {
            unknown.push(UnknownKey { key: format!("{name}.{key}"), nearest: nearest_key(name, key, &sections) });
        }
    }
    let users = table.get("console").and_then(|console| console.get("users")).and_then(Value::as_array);
    let user_keys = fields::<console::User>();
    for key in users.into_iter().flatten().filter_map(Value::as_table).flat_map(Table::keys) {
        if !user_keys.contains(&key.as_str()) {
            let nearest = nearest(key, user_keys.iter().map(|known| format!("console.users.{known}")));
            unknown.push(UnknownKey { key: format!("console.users.{key}"), nearest });
        }
    }
    unknown
}

/// The same key in another section, or the most similar one in this section.
fn nearest_key(section: &str, key: &str, sections: &[Section]) -> String {
    if let Some((other, _)) = sections.iter().find(|(_, keys)| keys.contains(&key)) {
        return format!("{other}.{key}");
    }
    let own = sections.iter().filter(|(name, _)| *name == section).flat_map(|(_, keys)| keys.iter());
    let found = nearest(key, own.map(|known| (*known).to_owned()));
    format!("{section}.{found}")
}

/// The candidate that takes the fewest edits; compared from its last dot on, as the sections before it are alike.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    let distance = |known: &String| strsim::damerau_levenshtein(name, known.rsplit('.').next().unwrap_or(known));
    candidates.min_by_key(distance).unwrap_or_default()
}

/// The names of a struct's fields, as its `Deserialize` asks for them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The probe never makes a value; it only listens which fields are asked for.
    let _: Result<T, Error> = T::deserialize(Probe(&mut names));
    names
}

struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("fields noted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_sections_are_those_of_the_config() {
        let names: Vec<_> = sections().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, fields::<Config>());
        assert!(sections().iter().all(|(_, keys)| !keys.is_empty()));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let table = "[pol]\n[pool]\nsise = 1\ncache_ttl = '1s'\n[[console.users]]\nnome = 'x'".parse().unwrap();
        let texts: Vec<_> = unknown_in(&table).iter().map(|u| format!("{} {}", u.key, u.nearest)).collect();
        assert_eq!(
            texts,
            [
                "pol pool",
                "pool.cache_ttl registry.cache_ttl",
                "pool.sise pool.size",
                "console.users.nome console.users.name"
            ]
        );
    }
}
