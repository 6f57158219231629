//! Whose rows are the same tenant's: by id, then by slug.

use std::collections::HashMap;

use uuid::Uuid;

use super::conflict::Kind;
use super::source::{OldRegistry, OldRow};
use crate::tenant::{Slug, TenantId};

/// A row of a source, with its names made sense of.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    /// The source's number.
    pub(super) source: usize,
    pub(super) old: &'a OldRow,
    id: Option<TenantId>,
    slug: Option<Slug>,
}

impl Candidate<'_> {
    /// Whether the tenant has the source's module. An empty list says nothing: its column has a default, and not all kept it.
    pub(super) fn subscribes(&self, source: &OldRegistry) -> bool {
        match self.old.modules.as_deref() {
            Some(modules @ [_, ..]) => modules.iter().any(|module| module == source.module.as_str()),
            Some([]) | None => self.old.schema.is_some() || (!source.names_schemas && self.old.modules.is_none()),
        }
    }
}

/// The rows of one tenant, in the order of the sources.
#[derive(Debug, Default)]
pub(super) struct Group<'a> {
    pub(super) rows: Vec<Candidate<'a>>,
    /// What is wrong with them, whatever the registry says.
    pub(super) flaws: Vec<(Kind, String)>,
}

impl Group<'_> {
    /// Its ids, each once, the first source's first.
    pub(super) fn ids(&self) -> Vec<TenantId> {
        distinct(self.rows.iter().filter_map(|row| row.id))
    }

    /// Its slugs, likewise.
    pub(super) fn slugs(&self) -> Vec<Slug> {
        distinct(self.rows.iter().filter_map(|row| row.slug.clone()))
    }

    /// How it is spoken of.
    pub(super) fn label(&self) -> String {
        self.rows.first().map(|row| row.old.label()).unwrap_or_default()
    }
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut seen, one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
        seen
    })
}

/// Sorts the rows of all sources into tenants. With `by_slug`, the same slug means the same tenant whatever the ids; else only where an id is missing.
pub(super) fn group<'a>(sources: &[&'a OldRegistry], by_slug: bool) -> Vec<Group<'a>> {
    let mut rows: Vec<(Candidate<'a>, Vec<(Kind, String)>)> = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        rows.extend(source.rows.iter().map(|old| candidate(number, old)));
    }
    let mut sets = Sets((0..rows.len()).collect());
    let (mut by_id, mut slugs): (HashMap<TenantId, usize>, HashMap<Slug, usize>) = (HashMap::new(), HashMap::new());
    for (at, (row, _)) in rows.iter().enumerate() {
        if let Some(id) = row.id {
            sets.join(*by_id.entry(id).or_insert(at), at);
            if let Some(slug) = &row.slug {
                let first = *slugs.entry(slug.clone()).or_insert(at);
                if by_slug {
                    sets.join(first, at);
                }
            }
        }
    }
    for (at, (row, _)) in rows.iter().enumerate() {
        if let (None, Some(slug)) = (row.id, &row.slug) {
            sets.join(*slugs.entry(slug.clone()).or_insert(at), at);
        }
    }
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (at, (row, flaws)) in rows.into_iter().enumerate() {
        let place = *places.entry(sets.root(at)).or_insert_with(|| {
            groups.push(Group::default());
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.rows.push(row);
            group.flaws.extend(flaws);
        }
    }
    note_duplicates(&mut groups, sources);
    note_shared_slugs(&mut groups);
    groups
}

fn candidate(source: usize, old: &OldRow) -> (Candidate<'_>, Vec<(Kind, String)>) {
    let mut flaws = Vec::new();
    let id = old.id.as_deref().and_then(|text| match Uuid::try_parse(text.trim()) {
        Ok(id) => Some(TenantId(id)),
        Err(_) => {
            flaws.push((Kind::Id, format!("tenant_id \"{}\" is no UUID", short(text))));
            None
        }
    });
    let slug = old.slug.as_deref().and_then(|text| match Slug::parse(text) {
        Ok(slug) => Some(slug),
        Err(error) => {
            flaws.push((Kind::Slug, short(&error.to_string())));
            None
        }
    });
    if id.is_none() && slug.is_none() && flaws.is_empty() {
        flaws.push((Kind::Slug, "a row has neither tenant_id nor tenant_slug".to_owned()));
    }
    (Candidate { source, old, id, slug }, flaws)
}

/// As much of a source's text as fits into a line of a table.
fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

fn note_duplicates(groups: &mut [Group<'_>], sources: &[&OldRegistry]) {
    for group in groups {
        for (number, source) in sources.iter().enumerate() {
            let times = group.rows.iter().filter(|row| row.source == number).count();
            if times > 1 {
                group
                    .flaws
                    .push((Kind::Duplicate, format!("is there {times} times in the source of {}", source.module)));
            }
        }
    }
}

/// Different tenants cannot have one slug.
fn note_shared_slugs(groups: &mut [Group<'_>]) {
    let mut holders: HashMap<Slug, Vec<usize>> = HashMap::new();
    for (at, group) in groups.iter().enumerate() {
        for slug in group.slugs() {
            holders.entry(slug).or_default().push(at);
        }
    }
    for (slug, holders) in holders.into_iter().filter(|(_, holders)| holders.len() > 1) {
        let id = |at: &usize| groups.get(*at).and_then(|group| group.ids().first().copied());
        let ids: Vec<_> = holders.iter().filter_map(id).map(|id| id.to_string()).collect();
        for at in holders {
            if let Some(group) = groups.get_mut(at) {
                group.flaws.push((Kind::SlugTaken, format!("\"{slug}\" has the ids {}", ids.join(", "))));
            }
        }
    }
}

/// Sets of numbers that grow together; each is known by its first member.
struct Sets(Vec<usize>);

impl Sets {
    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        let (first, last) = (one.min(other), one.max(other));
        self.0[last] = first;
    }
}
