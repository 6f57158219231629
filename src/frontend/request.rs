//! What a startup message asks for, sorted: who, which database, which settings, and the names of tenants in between.

use std::collections::BTreeMap;

use crate::protocol::{is_protocol_option, parse_options};

use super::config::IdentifyConfig;
use super::error::Error;

/// The parameter that names a tenant whatever the configuration says.
const TENANT_PARAMETER: &str = "pgtenant.tenant";
/// Parameters of a startup message that are no settings: as settings they do not exist, and must not come to a backend as such.
const NOT_SETTINGS: [&str; 4] = ["user", "database", "options", "replication"];

/// A startup message, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) user: String,
    /// Empty when none was given.
    pub(crate) database: String,
    /// The values of all parameters that name a tenant, equal ones once.
    pub(crate) tenants: Vec<String>,
    /// Everything else, by lower-case name; what `options` says, overruled by what is given directly, as PostgreSQL does.
    pub(crate) settings: BTreeMap<String, String>,
    /// `database`, or a word for true.
    pub(crate) replication: Option<String>,
}

impl Asked {
    /// Sorts a startup message's parameters.
    pub(crate) fn sort(parameters: &[(String, String)], config: &IdentifyConfig) -> Result<Self, Error> {
        let mut asked = Self {
            user: String::new(),
            database: String::new(),
            tenants: Vec::new(),
            settings: BTreeMap::new(),
            replication: None,
        };
        let mut options = "";
        let mut direct = Vec::new();
        for (name, value) in parameters {
            match name.as_str() {
                "user" => asked.user.clone_from(value),
                "database" => asked.database.clone_from(value),
                "options" => options = value,
                "replication" => asked.replication = replication(value, config)?,
                name if is_protocol_option(name) => {}
                name => direct.push((name, value.as_str())),
            }
        }
        let options = parse_options(options)?;
        let options = options.iter().map(|setting| (setting.name.as_str(), setting.value.as_str()));
        for (name, value) in options.chain(direct) {
            asked.add(name, value, config)?;
        }
        Ok(asked)
    }

    fn add(&mut self, name: &str, value: &str, config: &IdentifyConfig) -> Result<(), Error> {
        let lower = name.to_ascii_lowercase();
        if lower == TENANT_PARAMETER || config.parameters.iter().any(|p| normal(p) == lower) {
            if !self.tenants.iter().any(|tenant| tenant == value) {
                self.tenants.push(value.to_owned());
            }
            return Ok(());
        }
        // A backend's startup packet is made of these names: an empty one would end it, the others would be more than settings.
        if lower.is_empty() || NOT_SETTINGS.contains(&lower.as_str()) || is_protocol_option(&lower) {
            return Err(Error::UnknownSetting(name.to_owned()));
        }
        self.settings.insert(lower, value.to_owned());
        Ok(())
    }
}

/// A configured parameter name as it would come out of `options`.
fn normal(parameter: &str) -> String {
    parameter.to_ascii_lowercase().replace('-', "_")
}

/// PostgreSQL's reading of `replication`: `database`, or a boolean in any of its spellings (`parse_bool`).
fn replication(value: &str, config: &IdentifyConfig) -> Result<Option<String>, Error> {
    let lower = value.to_ascii_lowercase();
    let abbreviates = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    let wanted =
        value == "database" || abbreviates("true", 1) || abbreviates("yes", 1) || lower == "on" || lower == "1";
    let declined = abbreviates("false", 1) || abbreviates("no", 1) || abbreviates("off", 2) || lower == "0";
    match (wanted, declined) {
        (true, _) if config.allow_replication => Ok(Some(value.to_owned())),
        (true, _) => Err(Error::ReplicationDenied),
        (_, true) => Ok(None),
        _ => Err(Error::ReplicationValue(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(parameters: &[(&str, &str)]) -> Result<Asked, Error> {
        sort_by(parameters, &IdentifyConfig::default())
    }

    fn sort_by(parameters: &[(&str, &str)], config: &IdentifyConfig) -> Result<Asked, Error> {
        let owned: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Asked::sort(&owned, config)
    }

    #[test]
    fn a_tenant_is_named_by_parameter_or_option_and_never_stays_among_the_settings() {
        for parameters in [
            [("tenant", "acme"), ("application_name", "x")],
            [("TENANT", "acme"), ("application_name", "x")],
            [("pgtenant.tenant", "acme"), ("application_name", "x")],
            [("options", "-c tenant=acme -c application_name=x"), ("user", "u")],
            [("options", "-ctenant=acme --application-name=x"), ("user", "u")],
            [("options", "-c pgtenant.tenant=acme -c application_name=x"), ("user", "u")],
            [("options", "--tenant=acme -c Application_Name=x"), ("user", "u")],
        ] {
            let asked = sort(&parameters).unwrap();
            assert_eq!(asked.tenants, ["acme"], "{parameters:?}");
            let settings: Vec<_> = asked.settings.into_iter().collect();
            assert_eq!(settings, [("application_name".to_owned(), "x".to_owned())], "{parameters:?}");
        }
    }

    #[test]
    fn further_parameters_name_tenants_where_configured() {
        let config =
            IdentifyConfig { parameters: vec!["reference".into(), "cluster-id".into()], ..IdentifyConfig::default() };
        let asked =
            sort_by(&[("reference", "krn:a"), ("options", "--cluster-id=b"), ("tenant", "c")], &config).unwrap();
        assert_eq!(asked.tenants, ["b", "krn:a"]);
        assert_eq!(asked.settings.get("tenant").map(String::as_str), Some("c"), "not a name of tenants here");
    }

    #[test]
    fn a_tenant_given_twice_with_different_values_is_not_settled_by_order() {
        assert_eq!(sort(&[("options", "-c tenant=a -c tenant=b -c tenant=a")]).unwrap().tenants, ["a", "b"]);
    }

    #[test]
    fn direct_settings_overrule_options_and_the_last_one_wins() {
        let asked = sort(&[("TimeZone", "B"), ("options", "-c timezone=A -c x.y=1 -c X.Y=2")]).unwrap();
        assert_eq!(asked.settings["timezone"], "B");
        assert_eq!(asked.settings["x.y"], "2");
    }

    #[test]
    fn options_cannot_smuggle_what_is_more_than_a_setting_into_a_backends_startup_packet() {
        for options in
            ["-c user=postgres", "--database=x", "-c REPLICATION=database", "-c options=x", "-c _pq_.x=1", "-c =x"]
        {
            let error = sort(&[("options", options)]).unwrap_err();
            assert_eq!(error.report().unwrap().sqlstate.0, "42704", "{options}");
        }
        assert!(sort(&[("User", "postgres")]).is_err());
    }

    #[test]
    fn protocol_options_are_no_settings() {
        assert!(sort(&[("_pq_.grease", "1")]).unwrap().settings.is_empty());
    }

    #[test]
    fn replication_is_refused_unless_allowed() {
        for value in ["database", "true", "t", "YES", "on", "1"] {
            assert!(matches!(sort(&[("replication", value)]), Err(Error::ReplicationDenied)), "{value}");
        }
        for value in ["false", "0", "off", "of", "no", "F"] {
            assert_eq!(sort(&[("replication", value)]).unwrap().replication, None, "{value}");
        }
        for value in ["", "o", "maybe", "Database"] {
            assert!(matches!(sort(&[("replication", value)]), Err(Error::ReplicationValue(_))), "{value}");
        }
        let config = IdentifyConfig { allow_replication: true, ..IdentifyConfig::default() };
        let asked = sort_by(&[("replication", "database")], &config).unwrap();
        assert_eq!(asked.replication.as_deref(), Some("database"));
    }
}
