//! Lists of statements that a thief tries, one after the other: none may show the victim's secret or change its data.

use super::error::Error;
use super::scene::{Scene, Way};
use super::session::{Said, Session};
use super::verdict::Verdict;

/// One thing to try.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attempt {
    /// It may succeed, if only it shows nothing.
    Look(&'static str),
    /// It must fail.
    Refused(&'static str),
    /// A copy from the server, which may succeed likewise.
    CopyOut(&'static str),
    /// A copy to the server, which must fail.
    CopyIn(&'static str),
}

/// Tries all of them in one session of the thief's, and looks afterwards whether the victim's data is as it was.
pub(super) async fn attempt(scene: &Scene, attempts: &[Attempt]) -> Result<Verdict, Error> {
    let mut session = scene.thief(Way::Wide).await?;
    for attempt in attempts {
        if let Some(leak) = tried(scene, &mut session, *attempt).await {
            return Ok(Verdict::Leaks(leak));
        }
        if session.client.is_closed() {
            session = scene.thief(Way::Wide).await?;
        }
    }
    session.leave().await;
    let mut victim = scene.victim(Way::Wide).await?;
    Ok(match scene.amiss(&mut victim, &scene.victim).await {
        Some(amiss) => Verdict::Leaks(format!("afterwards the other tenant {amiss}")),
        None => Verdict::Holds(format!("{} tried", attempts.len())),
    })
}

async fn tried(scene: &Scene, session: &mut Session, attempt: Attempt) -> Option<String> {
    let (Attempt::Look(sql) | Attempt::Refused(sql) | Attempt::CopyOut(sql) | Attempt::CopyIn(sql)) = attempt;
    let statement = scene.aimed(sql);
    let said = match attempt {
        Attempt::Look(_) => session.say(&statement).await,
        Attempt::Refused(_) => {
            // Should it be done after all, it is undone at once.
            let said = session.say(&format!("BEGIN; {statement}")).await;
            session.say("ROLLBACK").await;
            said
        }
        Attempt::CopyOut(_) => session.copy_out(&statement).await,
        Attempt::CopyIn(_) => session.copy_in(&statement, "planted\n").await,
    };
    let must_fail = matches!(attempt, Attempt::Refused(_) | Attempt::CopyIn(_));
    judge(scene, &statement, must_fail, &said)
}

fn judge(scene: &Scene, statement: &str, must_fail: bool, said: &Said) -> Option<String> {
    if said.text.contains(&scene.victim.secret) {
        return Some(format!("{statement} shows what is another's"));
    }
    (must_fail && said.code.is_none()).then(|| format!("{statement} was done"))
}
