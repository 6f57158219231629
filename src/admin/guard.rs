//! Who may ask: the bearer token.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::Secret;

/// The token that callers must present; without one everybody may ask.
#[derive(Debug, Default)]
pub(super) struct Guard {
    token: ArcSwapOption<Secret>,
}

impl Guard {
    pub(super) fn set(&self, token: Option<Secret>) {
        self.token.store(token.map(Arc::new));
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token.load_full() else { return true };
        let presented = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        presented.is_some_and(|presented| verify_slices_are_equal(presented, token.expose().as_bytes()).is_ok())
    }
}

/// Lets a request through, or answers it with 401 (RFC 6750, section 3).
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"pgtenant\"")];
    (StatusCode::UNAUTHORIZED, challenge, "present the [http] token: Authorization: Bearer …\n").into_response()
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(guard: &Guard, value: &str) -> bool {
        guard.admits(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]))
    }

    #[test]
    fn only_the_whole_token_is_accepted() {
        let guard = Guard::default();
        assert!(guard.admits(&HeaderMap::new()), "no token, no guard");
        guard.set(Some(Secret::new("open sesame".to_owned())));
        assert!(!guard.admits(&HeaderMap::new()));
        assert!(admits(&guard, "Bearer open sesame") && admits(&guard, "bearer open sesame"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer open", "Bearer open sesame!", "Basic open sesame"] {
            assert!(!admits(&guard, wrong), "{wrong}");
        }
    }
}
