//! Patterns from which the names of schemas, databases and roles are made: `{slug}`, `{id}` and `{module}` stand for the tenant's and the module's own.

use std::fmt;
use std::str::FromStr;

use super::error::PatternError;

/// A checked pattern of names, such as `finance_{slug}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Checks a pattern: there are no braces in it but around the three words.
    ///
    /// # Errors
    /// A [`PatternError`] that names the unknown or unfinished placeholder.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let braces = || PatternError::Braces { pattern: text.to_owned() };
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let placeholder = rest[at..].strip_prefix('{').ok_or_else(braces)?;
            let end =
                placeholder.find(['{', '}']).filter(|end| placeholder[*end..].starts_with('}')).ok_or_else(braces)?;
            let word = &placeholder[..end];
            if !["slug", "id", "module"].contains(&word) {
                return Err(PatternError::Placeholder { pattern: text.to_owned(), placeholder: word.to_owned() });
            }
            rest = &placeholder[end + 1..];
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it makes a name of its own for every tenant.
    #[must_use]
    pub fn names_the_tenant(&self) -> bool {
        self.0.contains("{slug}") || self.0.contains("{id}")
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pattern_is_refused_by_name() {
        for bad in ["", "{", "}", "{slug", "slug}", "{tenant}", "{}", "a}b{slug}", "{{slug}}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(Pattern::parse("{tenant}").unwrap_err().to_string().contains("{tenant}"));
    }

    #[test]
    fn a_pattern_knows_whether_it_tells_tenants_apart() {
        assert!(Pattern::parse("a_{id}").unwrap().names_the_tenant());
        assert!(Pattern::parse("{module}_{slug}").unwrap().names_the_tenant());
        assert!(!Pattern::parse("{module}").unwrap().names_the_tenant());
    }
}
