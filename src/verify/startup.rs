//! What a client may say of itself when it begins: options that would make somebody else of it, and other tenants' names.

use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::session::Session;
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("options smuggled in at start-up", Wall::Everywhere, |scene| Box::pin(options(scene))),
    Check::new("another tenant named at login", Wall::Everywhere, |scene| Box::pin(names(scene))),
];

const OPTIONS: [&str; 22] = [
    "-c role={role_text}",
    "-crole={role_text}",
    "-c ROLE={role_text}",
    "--role={role_text}",
    "-c\trole={role_text}",
    "-c r\\ole={role_text}",
    "-c application_name=a\\ b -c role={role_text}",
    "-c session_authorization={role_text}",
    "--session-authorization={role_text}",
    "-c session_preload_libraries=x",
    "-c local_preload_libraries=x",
    "-c pgtenant.tenant_id={id}",
    "--pgtenant.tenant-id={id}",
    "-c PGTENANT.Tenant_ID={id}",
    "-c search_path={schema_text}",
    "--search-path={schema_text}",
    "-csearch_path=public --search_path={schema_text}",
    "-c row_security=off",
    "-c options=-crole={role_text}",
    "-d postgres",
    "-O",
    "-c replication=database",
];

/// Whatever is let in is who it was, and reads what is its own.
async fn options(scene: &Scene) -> Result<Verdict, Error> {
    const WHO: &str = "SELECT session_user || ' as ' || current_user";
    let mut plain = scene.thief(Way::Wide).await?;
    let before = plain.value("ask who one is", WHO).await?;
    plain.leave().await;
    let mut refused = 0;
    for smuggled in OPTIONS {
        let mut config = scene.config(&scene.thief, Way::Wide);
        let mut session = match Session::open(config.options(scene.aimed(smuggled))).await {
            Ok(session) => session,
            Err(error) if error.as_db_error().is_some() => {
                refused += 1;
                continue;
            }
            Err(source) => return Err(Error::Postgres { doing: "log in with options", source }),
        };
        let now = session.value("ask who one is", WHO).await?;
        let seen = session.say(&scene.notes()).await;
        session.leave().await;
        if now != before {
            return Ok(Verdict::Leaks(format!("{smuggled} makes it {now}")));
        }
        if seen.text.contains(&scene.victim.secret) {
            return Ok(Verdict::Leaks(format!("{smuggled} leads to another's table")));
        }
        if smuggled.contains("preload") {
            return Ok(Verdict::Leaks(format!("{smuggled} was accepted")));
        }
    }
    Ok(Verdict::Holds(format!("{refused} of {} refused, the others without effect", OPTIONS.len())))
}

/// One's own login never opens another tenant's place.
async fn names(scene: &Scene) -> Result<Verdict, Error> {
    let own = || scene.config(&scene.thief, Way::Wide);
    let victim = scene.victim.user.split_once('@').map_or(scene.victim.id.as_str(), |(_, slug)| slug);
    let mut tries = vec![];
    let mut config = own();
    tries.push(("another's user name with one's own password", config.user(&scene.victim.user).clone()));
    let mut config = own();
    tries.push(("another tenant beside one's own", config.options(format!("-c tenant={victim}")).clone()));
    let mut config = own();
    tries
        .push(("another tenant's id beside one's own", config.options(scene.aimed("-c pgtenant.tenant={id}")).clone()));
    let mut config = own();
    let user = format!("{}@{victim}", scene.thief.user);
    tries.push(("two tenants in the user name", config.user(user).clone()));
    let count = tries.len();
    for (what, config) in tries {
        match Session::open(&config).await {
            Ok(_) => return Ok(Verdict::Leaks(format!("{what} was let in"))),
            Err(error) if error.as_db_error().is_some() => {}
            Err(source) => return Err(Error::Postgres { doing: "log in with another's name", source }),
        }
    }
    Ok(Verdict::Holds(format!("{count} refused")))
}
